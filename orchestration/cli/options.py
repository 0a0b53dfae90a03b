"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from cola.errors import SpecError
from cola.terminal import say
from cola.terminal_tables import wide_console
from orchestration.remote.clusters import only_cluster
from orchestration.remote.packaging import JobEnvironment


def known_studies(incomplete: str) -> list[str]:
    """Names of studies that begin so, for shells: shipped ones, and those of `outputs`."""
    from orchestration.planning.catalog import own_names, shipped_studies

    names = dict.fromkeys([*shipped_studies(), *own_names(Path("outputs", "studies"))])
    return [name for name in names if name.startswith(incomplete)]


Study = Annotated[
    str,
    typer.Argument(
        help="A shipped study's name, a YAML file, or the name of a study of the output folder.",
        autocompletion=known_studies,
    ),
]
Thing = Annotated[
    str, typer.Argument(help="A shipped study's or sweep's name, or a YAML file of one.")
]
ThingName = Annotated[str, typer.Argument(help="The study's or sweep's name.")]
Scale = Annotated[str | None, typer.Option("--scale", help="Of a sweep: its scale.")]
SweepOverrides = Annotated[
    list[str] | None,
    typer.Option("--sweep-set", help="Of a sweep: override a key of its own.", metavar="KEY=VALUE"),
]
ClusterName = Annotated[
    str | None, typer.Option("--cluster", help="A cluster that clusters.yaml describes.")
]
Allocations = Annotated[
    int | None,
    typer.Option(
        "--allocations",
        help="Slurm: jobs of a study side by side, which share its runs (default: the cluster's, "
        "or 1).",
    ),
]
ByRung = Annotated[
    bool | None,
    typer.Option(
        "--by-rung/--one-size",
        help="Slurm: jobs of a study have nodes and time by the rungs whose runs they take "
        "(default: the cluster's, or one size).",
    ),
]
Rungs = Annotated[
    str | None,
    typer.Option(
        "--rungs",
        metavar="0-2,5",
        help="Of the ladder's rungs, counted from 0, these alone; the others are left to other "
        "drivers.",
    ),
]
Run = Annotated[str, typer.Argument(help="STUDY/RUN-NAME, a run key, or a run's folder.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a key: path.to.key=value (repeatable).", metavar="KEY=VALUE"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Wide = Annotated[
    bool,
    typer.Option("--wide", help="Every column of tables, also where the terminal is narrower."),
]
Output = Annotated[str, typer.Option(help="Output folder of the study.")]
StudyOutput = Annotated[
    str | None,
    typer.Option(
        "--output", help="Output folder, as --set output=FOLDER (default: the study's, or outputs)."
    ),
]
Seed = Annotated[int, typer.Option(min=0)]
RayAddress = Annotated[
    str | None, typer.Option(help="Ray cluster to use (default: a private local one).")
]
DASHBOARD_HELP = "Ray's dashboard: http(s)://HOST:PORT."
Dashboard = Annotated[str | None, typer.Option("--address", help=DASHBOARD_HELP)]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="COLA_CA_FILE",
        help="Certificate(s) that an https:// address is trusted by "
        "(default: the system's, or REQUESTS_CA_BUNDLE).",
    ),
]
AllowHttp = Annotated[
    bool,
    typer.Option(
        "--allow-http",
        envvar="COLA_ALLOW_HTTP",
        help="Send the token to another machine without TLS: whoever listens on the way reads it.",
    ),
]
Detach = Annotated[bool, typer.Option("--detach", help="Leave it running and return.")]
Environment = Annotated[
    JobEnvironment | None,
    typer.Option(
        "--environment",
        help="cluster: the `cola` that is installed there. pinned: this checkout's sources, built "
        "there with the versions of its constraints.txt (minutes, the first time). sources: of "
        "Slurm, this checkout's sources with the libraries that are there (default: cluster, or "
        "sources by the cluster's send_sources).",
    ),
]


def output_folder(output: str, option: str = "--output") -> Path:
    """The absolute path of an output folder that an option names.

    Raises:
        SpecError: it is empty, as a variable of a script that is not set gives it.
    """
    if not output.strip():
        raise SpecError(f"{option}: an empty path; name a folder, or . for the working directory")
    return Path(output).expanduser().resolve()


def chosen_cluster(address: str | None, cluster: str | None, thing: str | None) -> str | None:
    """The name that --cluster gives, or that of the only cluster described; None: --address counts.

    Raises:
        SpecError: both are given, or none where no cluster, or more than one, takes jobs.
    """
    if (address is None) != (cluster is None):
        return cluster
    only = only_cluster(thing) if address is None else None
    if only is None:
        raise SpecError(
            "--address, --cluster: give one of them: the http(s)://HOST:PORT of Ray's dashboard, "
            "or the name of a cluster in clusters.yaml (which may be left out where it describes "
            "one alone; `cola cluster list` has what is described)"
        )
    name, path = only
    typer.echo(f"cluster {name}, the only one in {path}", err=True)
    return name


def with_output(settings: Sequence[str] | None, output: str | None) -> list[str]:
    """The settings of a study, with the output folder of `--output`.

    Raises:
        SpecError: the path is empty, or the settings have another one.
    """
    given = list(settings or [])
    if output is None:
        return given
    output_folder(output)
    other = next((each for each in given if each.partition("=")[0].strip() == "output"), None)
    if other is not None:
        raise SpecError(f"--output {output}: --set {other} names one too; give one of the two")
    return [*given, f"output={json.dumps(output)}"]


def print_names(about: Mapping[str, str], kind: str, as_json: bool) -> None:
    """Print names, each with a sentence on it: a line each, or one JSON object."""
    if as_json:
        rows = [{"name": name, "description": text} for name, text in about.items()]
        typer.echo(json.dumps({kind: rows}, indent=1, ensure_ascii=False))
        return
    console, width = wide_console(), max(map(len, about), default=0)
    for name, text in about.items():
        say(console, f"{name:{width}}  {text}")
