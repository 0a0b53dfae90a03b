"""The commands `cola status`, a study's runs here or on a cluster, and `cola ls`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cola.errors import SpecError, first_of
from cola.study import StudySpec
from cola.terminal import say
from cola.terminal_tables import NONE, Column, fitted, wide_console
from orchestration.cleanup.contents import things_in
from orchestration.cleanup.overview import ThingLine, overview, runs_of
from orchestration.cli.destinations import (
    RayDestination,
    SlurmDestination,
    current,
    destination,
)
from orchestration.cli.options import (
    DASHBOARD_HELP,
    AllowHttp,
    AsJson,
    CaFile,
    ClusterName,
    Output,
    Overrides,
    StudyOutput,
    Wide,
    known_studies,
    output_folder,
    with_output,
)
from orchestration.cli.tables import print_runs
from orchestration.cli.things import study_of, submitted_values
from orchestration.driver.status import run_status, unstarted_status
from orchestration.planning.catalog import SHOWN_KEY, is_sweep_values, load_study, nearest
from orchestration.planning.divergence_retry import with_retries
from orchestration.planning.plan import plan_study
from orchestration.results.saved_runs import saved_runs
from orchestration.slurm.machine import last_line
from orchestration.state.ledger import Ledger
from orchestration.state.paths import StudyFolder, output_root, study_folder

STATUS_SECONDS = 300.0  # for `cola status` on another machine; a chosen value
# bash for another machine; what `setup` prints is no part of the answer.
THERE = """exec 3>&1 1>&2
{setup}
command -v cola > /dev/null || {{
    echo "no command cola: add what makes its environment to setup in clusters.yaml" >&2
    exit 1
}}
export COLUMNS={columns}
exec cola "$@" 1>&3 3>&-
"""
WIDE = 160  # columns of a table that another machine prints; a chosen value
app = typer.Typer(no_args_is_help=True, add_completion=False)


@dataclass(frozen=True)
class Shown:
    """How a status is printed: as JSON, with workers, with every column of tables."""

    as_json: bool = False
    workers: bool = False
    wide: bool = False


@app.command()
def status(
    context: typer.Context,
    study: Annotated[
        str,
        typer.Argument(
            help="A shipped study, a YAML file, the name of a study of the output folder, or (with "
            "--address, --cluster) the name of a study or sweep.",
            autocompletion=known_studies,
        ),
    ],
    settings: Overrides = None,
    as_json: AsJson = False,
    *,
    output: StudyOutput = None,
    wide: Wide = False,
    workers: Annotated[
        bool, typer.Option("--workers", help="Also every worker of the running runs.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help=f"Read it on a cluster. {DASHBOARD_HELP}")
    ] = None,
    cluster: ClusterName = None,
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """Show the state of each run of a study, from the ledger and the journals."""
    how = Shown(as_json, workers, wide)
    settings = with_output(settings, output)
    if address is None and cluster is None:
        show_runs(study_of(context.obj, study, settings), [], how=how)
        return
    to = destination(address, cluster, ca_file=ca_file, allow_http=allow_http)
    if isinstance(to, SlurmDestination):
        if settings:
            given = f"--output {output}" if output is not None else f"--set {settings[0]}"
            raise SpecError(
                f"{given}: is not for a study on Slurm, whose settings are those with which it was "
                "submitted; leave it out"
            )
        show_slurm_status(context.obj, study, to, how)
    elif isinstance(to, RayDestination):
        show_remote_status(study, settings, to.client, how=how)


@app.command("ls")
def list_things(
    name: Annotated[
        str | None,
        typer.Argument(help="A study or sweep: list its runs, as `generate` and others take them."),
    ] = None,
    output: Output = "outputs",
    *,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """List the studies and sweeps of an output folder, or the runs of one, with their states."""
    root = output_folder(output)
    if root.exists() and not root.is_dir():
        raise SpecError(f"--output {output}: is a file; name an output folder")
    found = overview(root)
    if name is None:
        show_overview(root, found, as_json=as_json, wide=wide)
        return
    things = [thing for thing in things_in(root) if thing.name == name]
    if not things and any(each.name == name for each in found):
        raise SpecError(f"{name}: is an imported study; `cola report {name}` shows its runs")
    if not things:
        known = [each.name for each in found]
        raise SpecError(
            f"{name}: no study or sweep of {root} has this name{nearest(name, known)}; it has: "
            f"{first_of(known, 8) or 'none'}"
        )
    rows = [run for thing in things for run in runs_of(root, thing)]
    if as_json:
        runs = [asdict(row) for row in rows]
        typer.echo(json.dumps({"output": str(root), "name": name, "runs": runs}, indent=1))
        return
    console = wide_console()
    if not rows:
        say(console, f"{name} in {root} has planned no runs")
        return
    say(console, f"{name} in {root}")
    columns = [
        Column("run", [row.name for row in rows], left=True),
        Column("state", [row.state for row in rows], left=True),
        Column("key", [row.run_key[:SHOWN_KEY] for row in rows], 1),
    ]
    fitted(None, columns, console, wide=wide).print(console)


def show_overview(root: Path, found: Sequence[ThingLine], *, as_json: bool, wide: bool) -> None:
    """Print the studies and sweeps of an output folder."""
    if as_json:
        rows = [each.as_json() for each in found]
        typer.echo(json.dumps({"output": str(root), "found": rows}, indent=1))
        return
    console = wide_console()
    if not found:
        say(console, f"{root} holds no studies or sweeps; another folder: --output FOLDER")
        return
    states = [
        ", ".join(f"{count} {state}" for state, count in each.states.items()) or NONE
        for each in found
    ]
    trials = [NONE if each.trials is None else f"{each.trials[1]}/{each.trials[0]}"
              for each in found]  # fmt: skip
    columns = [
        Column("name", [each.name for each in found], left=True),
        Column("kind", [each.kind for each in found], left=True),
        Column("runs", states, wraps=True),
        Column("trials ended", trials, 1),
        Column("report", ["no" if each.report is None else "yes" for each in found], 2),
    ]
    say(console, str(root))
    fitted(None, columns, console, wide=wide).print(console)
    for each in found:
        if each.problem is not None:
            say(console, f"{each.kind} {each.name}: {each.problem}")


def show_runs(spec: StudySpec, jobs: Sequence[dict[str, str]], *, how: Shown) -> None:
    """Print a study's runs from its output folder, which this machine sees."""
    ledger = Ledger(output_root(spec))
    if StudyFolder(study_folder(spec)).fetched.exists():
        rows = fetched_rows(spec, ledger)
    else:
        plan = with_retries(plan_study(spec), spec.retry_diverged, ledger)
        rows = [run_status(run, ledger, spec.checkpoint.storage) for run in plan]
    if how.as_json:
        found = {"study": spec.name, **about_jobs(jobs), "runs": rows}
        typer.echo(json.dumps(found, indent=1))
    else:
        print_runs(spec.name, rows, how.workers, wide=how.wide)
        if all(row["state"] == "new" for row in rows):
            where = f"no run of {spec.name} has begun in {output_root(spec)}"
            say(wide_console(), f"{where}; another output folder: --output FOLDER")


def fetched_rows(study: StudySpec, ledger: Ledger) -> list[dict[str, object]]:
    """The rows of a fetched study, by its saved plan: its corpus need not be on this machine.

    Raises:
        SpecError: none of its runs has begun.
        ColaError: its files are damaged.
    """
    known = saved_runs(study, study_folder(study))
    # Its checkpoints are on the cluster, so that none is looked for.
    rows = [run_status(run, ledger, None) for run in known.started]
    if not rows:
        raise SpecError(f"study {study.name}: none of its runs has begun; fetch it again later")
    return [*rows, *(unstarted_status(name, rows[0]) for name in known.not_started)]


def show_slurm_status(services: Any, name: str, to: SlurmDestination, how: Shown) -> None:
    """Print the present jobs of a study or sweep on Slurm, and its runs or trials.

    Raises:
        SpecError: there was no job of it, none has begun, or `workers` is asked of a sweep.
    """
    jobs = current(to.jobs(name))
    for job in jobs if not how.as_json else ():
        typer.echo(str(job))
    spec = to.site.folder(name) / f"{name}.yaml"
    text = to.site.machine.read(spec)
    if text is None:
        raise SpecError(
            f"{name}: job {jobs[-1].job} has not begun, so that nothing is known of runs"
        )
    swept = is_sweep_values(submitted_values(text, str(spec)))
    if swept and how.workers:
        raise SpecError("--workers: is of a study's runs, and this is a sweep; leave it out")
    about = [{"id": job.job, "status": job.state} for job in jobs]
    if to.cluster.ssh is not None:
        show_status_there(to, spec, about, swept=swept, how=how)
    elif swept:
        services.sweep_status(str(spec), how.as_json, how.wide)
    else:
        show_runs(load_study(str(spec), []), about, how=how)


def show_status_there(
    to: SlurmDestination,
    spec: Path,
    jobs: Sequence[dict[str, str]],
    *,
    swept: bool,
    how: Shown,
) -> None:
    """Print what `cola status` says on the login node, which sees the output.

    Raises:
        SpecError: it fails there.
    """
    verbs = ["sweep", "status"] if swept else ["status"]
    asked = {"--json": how.as_json, "--workers": how.workers, "--wide": how.wide}
    options = [option for option, given in asked.items() if given]
    script = THERE.format(setup="\n".join(to.setup_of(spec.stem)), columns=WIDE)
    command = ["bash", "-c", script, "bash", *verbs, str(spec), *options]
    answer = to.site.machine.call(command, seconds=STATUS_SECONDS)
    shown = answer.output.decode(errors="replace")
    if answer.code != 0:
        reason = last_line(answer.errors or shown).removeprefix("error: ")
        raise SpecError(f"ssh={to.cluster.ssh}: `cola {' '.join(verbs)}` there: {reason}")
    if how.as_json and not swept:
        found = json.loads(shown)
        shown = json.dumps({"study": found.pop("study"), **about_jobs(jobs), **found}, indent=1)
    typer.echo(shown.rstrip("\n"))


def about_jobs(jobs: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Jobs as JSON output has them: the last one, and where several run all of them."""
    if not jobs:
        return {}
    return {"job": jobs[-1]} | ({"jobs": list(jobs)} if len(jobs) > 1 else {})


def show_remote_status(study: str, settings: list[str], client: Any, *, how: Shown) -> None:
    """Print the study's last job on a cluster, and its runs from the cluster's storage."""
    from orchestration.remote.remote_status import remote_runs, study_and_job

    name, output, job = study_and_job(client, study, settings)
    if job is not None and not how.as_json:
        typer.echo(str(job))
    rows = remote_runs(client, name, output, job=job)
    summary = None if job is None else {"id": job.submission_id, "status": job.status.lower()}
    swept = job is not None and job.metadata.get("kind") == "sweep"
    if how.as_json:
        keys = ("sweep", "trials") if swept else ("study", "runs")
        typer.echo(json.dumps({keys[0]: name, "job": summary, keys[1]: rows}, indent=1))
    elif swept:
        for row in rows:
            typer.echo("  ".join(str(value) for value in row.values() if value is not None))
    else:
        print_runs(name, rows, how.workers, wide=how.wide)
