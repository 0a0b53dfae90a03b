"""Commands around a cluster: submit, jobs, logs, stop, resume, recipe, doctor, mlflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cola.errors import SpecError
from orchestration.planning.catalog import load_study
from orchestration.recipes.recipes import Kind
from orchestration.recipes.recipes import recipe as recipe_text
from orchestration.remote import jobs
from orchestration.remote.endpoint import Endpoint
from orchestration.remote.packaging import Where

app = typer.Typer(no_args_is_help=True, add_completion=False)

Study = Annotated[str, typer.Argument(help="A shipped study's name or a YAML file.")]
Name = Annotated[str, typer.Argument(help="The study's name.")]
ADDRESS_HELP = "Ray's dashboard: http(s)://HOST:PORT."
Address = Annotated[str, typer.Option(help=ADDRESS_HELP)]
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
        help="Speak to another machine without TLS: whoever listens on the way reads the token.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key (repeatable).", metavar="KEY=VALUE"),
]
Detach = Annotated[bool, typer.Option("--detach", help="Leave it running and return.")]
Environment = Annotated[
    Where,
    typer.Option(
        "--environment",
        help="cluster: the `cola` that is installed there. pinned: this checkout's sources, built "
        "there with the versions of its constraints.txt (minutes, the first time).",
    ),
]
SECRETS_HELP = """

The token is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. No secret is sent
along: credentials of the tracking server (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, or
what tracking.uri=env:NAME refers to) and of object stores must be in the environment of the
cluster's nodes.
"""


@app.command(help=f"Run a study on a cluster; attaches where it is running already.{SECRETS_HELP}")
def submit(
    study: Study,
    address: Address,
    settings: Overrides = None,
    detach: Detach = False,
    environment: Environment = "cluster",
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """Submit or attach, and follow."""
    start(study, Endpoint(address, ca_file, allow_http), settings or [], detach, environment)


@app.command(
    help=f"Go on with a study that stopped or failed: what is finished stays so.{SECRETS_HELP}"
)
def resume(
    study: Study,
    address: Address,
    settings: Overrides = None,
    detach: Detach = False,
    environment: Environment = "cluster",
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """The same as submit: the ledger knows what is finished."""
    start(study, Endpoint(address, ca_file, allow_http), settings or [], detach, environment)


def start(
    study: str, endpoint: Endpoint, settings: list[str], detach: bool, environment: Where
) -> None:
    """Submit or attach, and follow."""
    spec = load_study(study, settings)
    client = jobs.client_of(endpoint)
    job, attached = jobs.submit(client, spec, environment)
    typer.echo(f"{job.submission_id}: {'runs already, attached' if attached else 'submitted'}")
    if job.metadata.get("specification", spec.content_hash()) != spec.content_hash():
        typer.echo(
            f"warning: {job.submission_id} carries out another version of this study; "
            "`cola stop` it first to run this one",
            err=True,
        )
    if not detach:
        follow(client, job)


@app.command("jobs")
def show_jobs(
    study: Name, address: Address, ca_file: CaFile = None, allow_http: AllowHttp = False
) -> None:
    """Attempts at a study on a cluster, and how they stand."""
    client = jobs.client_of(Endpoint(address, ca_file, allow_http))
    jobs.latest(client, study, address)
    for job in jobs.jobs_of(client, study):
        typer.echo(str(job))


@app.command()
def logs(
    study: Name, address: Address, ca_file: CaFile = None, allow_http: AllowHttp = False
) -> None:
    """Follow the output of a study's last job."""
    client = jobs.client_of(Endpoint(address, ca_file, allow_http))
    follow(client, jobs.latest(client, study, address))


@app.command()
def stop(
    study: Name,
    address: Address,
    wait: Annotated[bool, typer.Option("--wait", help="Return once it has ended.")] = False,
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """Stop a study on a cluster: its trainings save a checkpoint first."""
    client = jobs.client_of(Endpoint(address, ca_file, allow_http))
    job = jobs.latest(client, study, address)
    if not job.active:
        typer.echo(f"{job.submission_id}: has ended already ({job.status.lower()})")
        return
    typer.echo(f"{job.submission_id}: asked to stop; trainings save a checkpoint and leave")
    job = jobs.stop(client, job, wait)
    if wait:
        typer.echo(str(job))


@app.command()
def recipe(
    study: Study,
    kind: Annotated[Kind, typer.Option(help="What starts the cluster.")],
    settings: Overrides = None,
    gpus_per_node: Annotated[int, typer.Option(min=0)] = 8,
    cpus_per_node: Annotated[int, typer.Option(min=1)] = 96,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="At most so many nodes of each kind; more run more of the study's runs at once "
            "(default: what one run needs, times resources.concurrent_runs).",
        ),
    ] = None,
    image: Annotated[str, typer.Option(help="Container image with this product in it.")] = (
        "cola-scaling:latest"
    ),
) -> None:
    """Print a KubeRay RayJob, a Slurm script or a `ray up` file for a study.

    Credentials are referred to by name: put them into the secret `cola-credentials` (KubeRay), or
    export them where `sbatch` or `ray up`'s nodes find them.
    """
    spec = load_study(study, settings or [])
    typer.echo(recipe_text(kind, spec, gpus_per_node, cpus_per_node, nodes, image), nl=False)


@app.command()
def doctor(
    study: Annotated[
        str | None, typer.Argument(help="Also check this study's storage, tracking and devices.")
    ] = None,
    settings: Overrides = None,
    address: Annotated[
        str | None,
        typer.Option(help=f"Check a cluster in place of this machine's storage. {ADDRESS_HELP}"),
    ] = None,
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
    faults: Annotated[
        bool,
        typer.Option(
            "--faults",
            help="Also kill worker, controller and driver of a tiny study here, and prove that no "
            "run is lost or repeated (a few minutes).",
        ),
    ] = False,
    storage: Annotated[
        str | None,
        typer.Option(
            help="With --faults: keep that study's checkpoints in this folder or object store "
            "(as checkpoint.storage)."
        ),
    ] = None,
) -> None:
    """Check this environment and say what to do; exit 1 where a study could not run."""
    from orchestration.doctor.local_checks import examine

    if storage is not None and not faults:
        raise SpecError("--storage: is for the study of --faults; give both")
    spec = load_study(study, settings or []) if study is not None else None
    endpoint = Endpoint(address, ca_file, allow_http) if address is not None else None
    failed = False
    for finding in examine(spec, endpoint):
        failed = failed or finding.verdict == "fail"
        typer.echo(f"{finding.verdict:4} {finding.name:17} {finding.found}")
        if finding.remedy:
            typer.echo(f"     {'':17} -> {finding.remedy}")
    if faults and not failed:
        from orchestration.doctor.fault_drill import carry_out

        failed = not carry_out(typer.echo, storage)
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
    from orchestration.tracking.mlflow_server import serve

    serve(Path(output).expanduser().resolve(), port, typer.echo, store=store)


def follow(client: Any, job: jobs.Job) -> None:
    """Print the job's output; a job that did not succeed is an exit code of 1."""
    for text in jobs.follow(client, job):
        typer.echo(text, nl=False)
    ended = jobs.again(client, job)
    if ended.status != "SUCCEEDED":
        typer.echo(str(ended), err=True)
        raise typer.Exit(1)
