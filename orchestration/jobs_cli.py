"""Commands around a cluster: submit, jobs, logs, stop, resume, recipe, doctor, mlflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestration import jobs
from orchestration.catalog import load_study
from orchestration.recipes import Kind, Shape
from orchestration.recipes import recipe as recipe_text

app = typer.Typer(no_args_is_help=True, add_completion=False)

Study = Annotated[str, typer.Argument(help="A shipped study's name or a YAML file.")]
Name = Annotated[str, typer.Argument(help="The study's name.")]
Address = Annotated[str, typer.Option(help="Ray's dashboard: http(s)://HOST:PORT.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key (repeatable).", metavar="KEY=VALUE"),
]
Detach = Annotated[bool, typer.Option("--detach", help="Leave it running and return.")]


@app.command()
def submit(
    study: Study, address: Address, settings: Overrides = None, detach: Detach = False
) -> None:
    """Run a study on a cluster; attaches where it is running there already."""
    start(study, address, settings or [], detach)


@app.command()
def resume(
    study: Study, address: Address, settings: Overrides = None, detach: Detach = False
) -> None:
    """Go on with a study that stopped or failed: what is finished stays finished."""
    start(study, address, settings or [], detach)


def start(study: str, address: str, settings: list[str], detach: bool) -> None:
    """Submit or attach, and follow."""
    spec = load_study(study, settings)
    client = jobs.client_of(address)
    job, attached = jobs.submit(client, spec)
    typer.echo(f"{job.submission_id}: {'runs already, attached' if attached else 'submitted'}")
    if not detach:
        follow(client, job)


@app.command("jobs")
def show_jobs(study: Name, address: Address) -> None:
    """Attempts at a study on a cluster, and how they stand."""
    client = jobs.client_of(address)
    jobs.latest(client, study, address)
    for job in jobs.jobs_of(client, study):
        typer.echo(f"{job.submission_id}: {job.status.lower()} {job.message}".rstrip())


@app.command()
def logs(study: Name, address: Address) -> None:
    """Follow the output of a study's last job."""
    client = jobs.client_of(address)
    follow(client, jobs.latest(client, study, address))


@app.command()
def stop(study: Name, address: Address) -> None:
    """Stop a study on a cluster: its trainings save a checkpoint first."""
    client = jobs.client_of(address)
    job = jobs.latest(client, study, address)
    jobs.stop(client, job)
    typer.echo(f"{job.submission_id}: asked to stop; trainings save a checkpoint and leave")


@app.command()
def recipe(
    study: Study,
    kind: Annotated[Kind, typer.Option(help="What starts the cluster.")],
    settings: Overrides = None,
    gpus_per_node: Annotated[int, typer.Option(min=0)] = 8,
    cpus_per_node: Annotated[int, typer.Option(min=1)] = 96,
    image: Annotated[str, typer.Option(help="Container image with this product in it.")] = (
        "cola-scaling:latest"
    ),
) -> None:
    """Print a KubeRay RayJob, a Slurm script or a `ray up` file for a study."""
    spec = load_study(study, settings or [])
    shape = Shape.of(spec, gpus_per_node, cpus_per_node)
    typer.echo(recipe_text(kind, spec, shape, image), nl=False)


@app.command()
def doctor(
    study: Annotated[
        str | None, typer.Argument(help="Also check this study's storage, tracking and devices.")
    ] = None,
    settings: Overrides = None,
) -> None:
    """Check this environment and say what to do; exit 1 where a study could not run."""
    from orchestration.doctor import examine

    spec = load_study(study, settings or []) if study is not None else None
    failed = False
    for finding in examine(spec):
        failed = failed or finding.verdict == "fail"
        typer.echo(f"{finding.verdict:4} {finding.name:17} {finding.found}")
        if finding.remedy:
            typer.echo(f"     {'':17} -> {finding.remedy}")
    if failed:
        raise typer.Exit(1)


@app.command()
def mlflow(
    output: Annotated[str, typer.Option(help="Output folder whose runs are shown.")] = "outputs",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    store: Annotated[
        str | None,
        typer.Option(
            help="Another database: sqlite:///FILE.db, or env:NAME or file:/path of an address "
            "with a password (postgresql://...). Default: the output folder's SQLite file."
        ),
    ] = None,
) -> None:
    """Serve the output folder's MLflow store, or another, on loopback, until interrupted."""
    from orchestration.mlflow_server import serve

    serve(Path(output).expanduser().resolve(), port, typer.echo, store)


def follow(client: object, job: jobs.Job) -> None:
    """Print the job's output; a job that did not succeed is an exit code of 1."""
    for text in jobs.follow(client, job):
        typer.echo(text, nl=False)
    ended = jobs.again(client, job)
    if ended.status != "SUCCEEDED":
        typer.echo(f"{job.submission_id}: {ended.status.lower()} {ended.message}", err=True)
        raise typer.Exit(1)
