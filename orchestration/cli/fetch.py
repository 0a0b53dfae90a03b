"""The command `cola fetch`: results of a study or sweep on a cluster, for this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cola.errors import SpecError, first_of
from cola.study import StudySpec
from orchestration.cli.destinations import (
    Destination,
    RayDestination,
    SlurmDestination,
    destination,
)
from orchestration.cli.options import (
    AllowHttp,
    AsJson,
    CaFile,
    ClusterName,
    Dashboard,
    chosen_cluster,
    output_folder,
)
from orchestration.cli.things import name_and_output, study_values, submitted_values
from orchestration.planning.catalog import is_sweep_values
from orchestration.state.paths import StudyFolder

if TYPE_CHECKING:
    from orchestration.results.fetch import Advance, Fetched
    from orchestration.results.sources import Origin

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def fetch(
    thing: Annotated[
        str, typer.Argument(help="The name of a study or sweep, or the YAML file it was sent as.")
    ],
    address: Dashboard = None,
    *,
    cluster: ClusterName = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            help="Fetch from this output_mirror alone, in place of a cluster.",
            metavar="ADDRESS",
        ),
    ] = None,
    to: Annotated[str, typer.Option(help="Output folder of this machine.")] = "outputs",
    models: Annotated[
        bool, typer.Option("--models", help="Also the exported models of finished runs.")
    ] = False,
    as_json: AsJson = False,
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """Bring report, tables, plan, events and the runs' records from a cluster; repeat to renew.

    What was fetched opens like a study of this machine: cola status, report and generate.
    """
    name, _ = name_and_output(thing)
    if mirror is not None:
        for option, value in (("--address", address), ("--cluster", cluster)):
            if value is not None:
                raise SpecError(f"{option} {value}: --mirror needs no cluster; give one of them")
        place = mirror_origin(mirror, name)
        bring(place, output_folder(to, "--to"), models=models, as_json=as_json)
        return
    cluster = chosen_cluster(address, cluster, thing)
    reached = destination(address, cluster, thing, ca_file=ca_file, allow_http=allow_http)
    root = output_folder(to, "--to")
    where = f"--cluster {cluster}" if cluster is not None else f"--address {address}"
    bring(origin_of(reached, name, where), root, models=models, as_json=as_json)


def bring(origin: Origin, root: Path, *, models: bool, as_json: bool) -> None:
    """Fetch the results into an output folder, and print what was done.

    Raises:
        ColaError: there is no way to them, the folder has another study, a file is damaged.
    """
    from orchestration.results.fetch import check_target, fetch
    from orchestration.results.local_copy import fill_store
    from orchestration.results.sources import SharedFolder, open_source

    thing, source = origin.thing, open_source(origin)
    if isinstance(source, SharedFolder) and root == source.root.resolve():
        line = f"{thing.name}: {root} is the folder that its results are in; nothing to bring"
        same = {thing.kind: thing.name, "from": str(root), "to": str(root), "notes": [line]}
        typer.echo(json.dumps(same, indent=1) if as_json else line)
        return
    check_target(root, origin)
    if not as_json:
        typer.echo(f"{thing.name}: from {source.shown} to {root}")
    with shown_progress() as progress:
        result = fetch(source, root, origin, models=models, progress=progress)
    notes: list[str] = []
    if thing.kind == "study":
        fill_store(root, thing.name, notes.append)
    if as_json:
        about = {thing.kind: thing.name, "from": source.shown, "to": str(root), "models": models}
        typer.echo(json.dumps({**about, **result.as_json(), "notes": notes}, indent=1))
        return
    for line in [*summary(result, origin, root, models=models), *notes]:
        typer.echo(line)


def summary(result: Fetched, origin: Origin, root: Path, *, models: bool) -> Iterator[str]:
    """What was fetched, what was not, and how it is opened."""
    thing, folder = origin.thing, root / origin.thing.folder
    yield (
        f"{len(result.copied)} files copied ({result.copied_bytes / 1e6:,.1f} MB), "
        f"{len(result.unchanged)} were here already"
    )
    states = ", ".join(f"{count} {state}" for state, count in sorted(result.states.items()))
    yield f"runs: {states or 'none has begun'}"
    if result.kept:
        runs = [f"{key[:12]} ({state})" for key, state in result.kept.items()]
        yield (f"left as they are: {len(runs)} runs that {root} has of its own: {first_of(runs)}")
    if not models:
        yield "without models (--models brings them)"
    page = StudyFolder(folder).report_page
    if page.exists():
        yield f"report: {page}"
    else:
        yield "no report yet: it is written when the job ends"
    verb, file = ("", "study") if thing.kind == "study" else ("sweep ", "sweep")
    yield f"cola {verb}status {folder / file}.yaml"


@contextmanager
def shown_progress() -> Iterator[Callable[[int], Advance]]:
    """A bar of bytes on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
    with bar:

        def begin(total: int) -> Advance:
            task = bar.add_task("", total=total)
            return lambda done: bar.advance(task, done)

        yield begin


def origin_of(reached: Destination, name: str, where: str) -> Origin:
    """Where the results of this name are, as the cluster knows it.

    Raises:
        ColaError: the cluster knows no job of it, or does not answer.
    """
    if isinstance(reached, SlurmDestination):
        return slurm_origin(reached, name, where)
    if isinstance(reached, RayDestination):
        return ray_origin(reached, name, where)
    raise SpecError(f"{where}: takes no jobs, so that there is nothing to fetch")


def mirror_origin(mirror: str, name: str) -> Origin:
    """Where the results of this name are in a mirror: a study's before a sweep's.

    Raises:
        SpecError: it cannot be a mirror, or has neither.
        StorageError: it does not answer.
    """
    from orchestration.cleanup.contents import Thing
    from orchestration.output_mirror.mirror import known_list
    from orchestration.output_mirror.stored import StoredFiles
    from orchestration.results.sources import Origin

    files = StoredFiles.at(mirror, "--mirror")
    for thing in (Thing("study", name), Thing("sweep", name)):
        if known_list(files, thing.folder) is not None:
            return Origin(
                thing, f"--mirror {files.shown}", output=files.shown, digest=None, tracking=None,
                storage=None, mirror=mirror,
            )  # fmt: skip
    raise SpecError(
        f"{name}: {files.shown} holds no study or sweep of this name; a driver copies it there "
        "when it ends"
    )


def slurm_origin(reached: SlurmDestination, name: str, where: str) -> Origin:
    """Where the last job of this name on Slurm writes, by the specification in its folder.

    Raises:
        SpecError: there was no job of it, it has not begun, or its folder is not seen.
    """
    values = submitted(reached, name, where)
    swept = is_sweep_values(values)
    study = study_values(values)
    if not isinstance(study.get("output"), str):
        raise SpecError(f"{name}: its job does not say where the output is; submit it again")
    digest = None if swept else StudySpec.parse(study, origin=f"job of {name}").content_hash()
    return origin(where, name, "sweep" if swept else "study", study, digest)


def submitted(reached: SlurmDestination, name: str, where: str) -> dict[str, Any]:
    """The specification that a job of this name has written into its folder.

    Raises:
        SpecError: there was no job of it, it has not begun, or the folder is not seen here.
    """
    site, machine = reached.site, reached.site.machine
    folder = site.folder(name)
    if not machine.has_folder(Path(reached.shared)):
        raise SpecError(
            f"{where}: shared={reached.shared} is no folder that is seen from here; fetch where it "
            "is seen"
        )
    if not machine.has_folder(folder):
        known = first_of(sorted(machine.names(folder.parent)), 8)
        raise SpecError(
            f"{name}: {folder.parent} knows no job of it; submitted there: {known or 'none'}"
        )
    spec = folder / f"{name}.yaml"
    text = machine.read(spec)
    if text is None:
        raise SpecError(f"{name}: its job has not begun, so that there is nothing to fetch")
    return submitted_values(text, str(spec))


def ray_origin(reached: RayDestination, name: str, where: str) -> Origin:
    """Where the last job of this name on a Ray cluster writes, by what it was submitted with.

    Raises:
        SpecError: the cluster knows no job of it.
    """
    job = reached.jobs(name)[-1]
    about = job.metadata
    if not about.get("output"):
        raise SpecError(f"{name}: its job does not say where the output is; submit it again")
    study = {
        "output": about["output"],
        "tracking": {"uri": about.get("tracking") or None},
        "checkpoint": {"storage": about.get("storage") or None},
        "output_mirror": about.get("mirror") or None,
    }
    return origin(where, name, about.get("kind", "study"), study, about.get("specification"))


def origin(
    where: str, name: str, kind: str, study: Mapping[str, Any], digest: str | None
) -> Origin:
    """The origin that a specification's values give; `digest`: of a study as it was submitted."""
    from orchestration.cleanup.contents import Thing
    from orchestration.results.sources import Origin

    tracking, checkpoint = study.get("tracking") or {}, study.get("checkpoint") or {}
    return Origin(
        Thing("sweep" if kind == "sweep" else "study", name),
        where,
        output=str(study["output"]),
        digest=digest if kind == "study" else None,
        tracking=tracking.get("uri"),
        storage=checkpoint.get("storage"),
        mirror=study.get("output_mirror"),
    )
