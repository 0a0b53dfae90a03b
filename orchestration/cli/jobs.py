"""Commands around jobs of studies and sweeps on clusters: submit, resume, jobs, logs, stop."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestration.cli.destinations import Destination, current, destination
from orchestration.cli.options import (
    Allocations,
    AllowHttp,
    AsJson,
    ByRung,
    CaFile,
    ClusterName,
    Dashboard,
    Detach,
    Environment,
    Overrides,
    Rungs,
    Scale,
    SweepOverrides,
    Thing,
    ThingName,
)
from orchestration.cli.things import submission_of
from orchestration.recipes.sources import packed_sources
from orchestration.remote.packaging import STOP_SECONDS
from orchestration.slurm.record import WorkKind

app = typer.Typer(no_args_is_help=True, add_completion=False)

SECRETS_HELP = """

The token of a Ray cluster is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, or
from where clusters.yaml says. No secret is sent along: credentials of the tracking server
(MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, or what tracking.uri=env:NAME refers to) and of
object stores must be in the environment of the cluster's nodes.
"""


@app.command(
    help=f"Run a study or sweep on a cluster; attaches where it is running already.{SECRETS_HELP}"
)
def submit(
    context: typer.Context,
    thing: Thing,
    address: Dashboard = None,
    settings: Overrides = None,
    *,
    cluster: ClusterName = None,
    scale: Scale = None,
    sweep_settings: SweepOverrides = None,
    detach: Detach = False,
    allocations: Allocations = None,
    by_rung: ByRung = None,
    environment: Environment = None,
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """Submit or attach, and follow."""
    to = destination(
        address, cluster, thing, ca_file=ca_file, allow_http=allow_http, allocations=allocations,
        by_rung=by_rung,
    )  # fmt: skip
    work = submission_of(
        context.obj, thing, settings or [], scale=scale, sweep_settings=sweep_settings or [],
        shared=to.shared, here=to.sends_files(environment),
    )  # fmt: skip
    for sentence in to.notes(work):
        typer.echo(sentence, err=True)
    submitted = to.submit(work, environment)
    for number, job in enumerate(submitted.jobs):
        attached = number < submitted.attached
        typer.echo(f"{label(job)}: {'runs already, attached' if attached else 'submitted'}")
    for problem in submitted.problems:
        typer.echo(f"warning: {problem}", err=True)
    if not detach:
        follow(to, submitted.jobs)


@app.command(
    help=f"Resume a study or sweep that stopped or failed; finished runs are reused.{SECRETS_HELP}"
)
def resume(
    context: typer.Context,
    thing: Thing,
    address: Dashboard = None,
    settings: Overrides = None,
    *,
    cluster: ClusterName = None,
    scale: Scale = None,
    sweep_settings: SweepOverrides = None,
    detach: Detach = False,
    allocations: Allocations = None,
    by_rung: ByRung = None,
    environment: Environment = None,
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """The same as submit: the ledger knows what is finished."""
    submit(
        context, thing, address, settings, cluster=cluster, scale=scale,
        sweep_settings=sweep_settings, detach=detach, allocations=allocations,
        by_rung=by_rung, environment=environment, ca_file=ca_file, allow_http=allow_http,
    )  # fmt: skip


def label(job: Any) -> str:
    """A job's name in messages."""
    return str(job).partition(": ")[0]


@app.command("jobs")
def show_jobs(
    name: ThingName,
    address: Dashboard = None,
    ca_file: CaFile = None,
    *,
    cluster: ClusterName = None,
    allow_http: AllowHttp = False,
    as_json: AsJson = False,
) -> None:
    """List the jobs of a study or sweep on a cluster, with their states."""
    to = destination(address, cluster, ca_file=ca_file, allow_http=allow_http)
    jobs = to.jobs(name)
    if as_json:
        rows = [job.as_json() | {"active": job.active, "succeeded": job.succeeded} for job in jobs]
        typer.echo(json.dumps({"name": name, "jobs": rows}, indent=1))
        return
    for job in jobs:
        typer.echo(str(job))


@app.command()
def logs(
    name: ThingName,
    address: Dashboard = None,
    ca_file: CaFile = None,
    *,
    cluster: ClusterName = None,
    allow_http: AllowHttp = False,
) -> None:
    """Follow the output of the jobs of a study or sweep that run, or of its last one."""
    to = destination(address, cluster, ca_file=ca_file, allow_http=allow_http)
    follow(to, current(to.jobs(name)))


@app.command()
def stop(
    name: ThingName,
    address: Dashboard = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return once it has ended.")] = False,
    *,
    cluster: ClusterName = None,
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """Stop a study or sweep on a cluster: its trainings save a checkpoint first."""
    to = destination(address, cluster, ca_file=ca_file, allow_http=allow_http)
    jobs = current(to.jobs(name))
    if not jobs[-1].active:
        typer.echo(f"{jobs[-1]}; it has ended already")
        return
    for job in jobs:
        typer.echo(f"{label(job)}: asked to stop; trainings save a checkpoint and leave")
    stopped = to.stop(jobs, wait)
    for job in stopped if wait else ():
        typer.echo(str(job))


@app.command("slurm-job", hidden=True)
def slurm_job(
    file: str,
    ray: Annotated[list[str] | None, typer.Argument(help="Options of `ray start`.")] = None,
    *,
    kind: Annotated[str, typer.Option()] = "study",
    name: Annotated[str, typer.Option()],
    output: Annotated[Path, typer.Option()],
    grace: Annotated[int, typer.Option(min=1)] = STOP_SECONDS,
    cpus: Annotated[int, typer.Option(min=1)] = 1,
    rungs: Rungs = None,
) -> None:
    """What a script of `cola recipe --kind slurm` runs on the first of a job's nodes."""
    from orchestration.slurm.job import Work, run_job

    work_kind: WorkKind = "sweep" if kind == "sweep" else "study"
    work = Work(file, work_kind, name, output, grace, cpus, ray or [], rungs)
    notify: Callable[[str], None] = typer.echo
    raise typer.Exit(run_job(work, notify))


@app.command("sources-digest", hidden=True)
def show_sources_digest() -> None:
    """Print the digest of this product's own sources, by which those of machines are compared."""
    with tempfile.TemporaryDirectory(prefix="cola-sources-") as folder:
        typer.echo(packed_sources(Path(folder)))


def follow(to: Destination, jobs: Sequence[Any]) -> None:
    """Print the jobs' output; exit with 1 if one did not succeed."""
    for text in to.follow(jobs):
        typer.echo(text, nl=False)
    failed = [job for job in to.refreshed(jobs) if not job.succeeded]
    for job in failed:
        typer.echo(str(job), err=True)
    if failed:
        raise typer.Exit(1)
