"""Commands around a cluster: submit, jobs, logs, stop, resume, recipe, doctor, mlflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cola.errors import SpecError
from orchestration.cli.options import (
    DASHBOARD_HELP,
    AllowHttp,
    CaFile,
    Dashboard,
    Detach,
    Environment,
    Overrides,
    Study,
    StudyName,
    output_folder,
)
from orchestration.planning.catalog import load_study, read_study
from orchestration.recipes.registry import IMAGE, kinds
from orchestration.recipes.registry import recipe as recipe_text
from orchestration.remote import jobs
from orchestration.remote.endpoint import Endpoint
from orchestration.remote.packaging import JobEnvironment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestration.doctor.finding import Finding

    KindName = str
else:
    KindName = Literal[tuple(kinds())]

app = typer.Typer(no_args_is_help=True, add_completion=False)

SECRETS_HELP = """

The token is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. No secret is sent
along: credentials of the tracking server (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, or
what tracking.uri=env:NAME refers to) and of object stores must be in the environment of the
cluster's nodes.
"""
*FIRST_OUTPUTS, LAST_OUTPUT = (kind.output for kind in kinds().values())
RECIPE_HELP = f"""
Print {", ".join(FIRST_OUTPUTS)} or {LAST_OUTPUT} for a study.

Credentials are referred to by name: put them into the secret `cola-credentials` (KubeRay), or
export them where `sbatch` or `ray up`'s nodes find them.
"""


@app.command(help=f"Run a study on a cluster; attaches where it is running already.{SECRETS_HELP}")
def submit(
    study: Study,
    address: Dashboard,
    settings: Overrides = None,
    *,
    detach: Detach = False,
    environment: Environment = "cluster",
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """Submit or attach, and follow."""
    endpoint = Endpoint(address, ca_file, allow_http)
    start(study, endpoint, settings or [], detach=detach, environment=environment)


@app.command(help=f"Resume a study that stopped or failed; finished runs are reused.{SECRETS_HELP}")
def resume(
    study: Study,
    address: Dashboard,
    settings: Overrides = None,
    *,
    detach: Detach = False,
    environment: Environment = "cluster",
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """The same as submit: the ledger knows what is finished."""
    endpoint = Endpoint(address, ca_file, allow_http)
    start(study, endpoint, settings or [], detach=detach, environment=environment)


def start(
    study: str,
    endpoint: Endpoint,
    settings: list[str],
    *,
    detach: bool,
    environment: JobEnvironment,
) -> None:
    """Submit or attach, and follow."""
    spec = read_study(study, settings)
    client = jobs.client_of(endpoint)
    job, attached = jobs.submit(client, spec, environment)
    typer.echo(f"{job.submission_id}: {'runs already, attached' if attached else 'submitted'}")
    if job.metadata.get("specification", spec.content_hash()) != spec.content_hash():
        typer.echo(
            f"warning: {job.submission_id} runs another version of this study; "
            "`cola stop` it first to run this one",
            err=True,
        )
    if not detach:
        follow(client, job)


@app.command("jobs")
def show_jobs(
    study: StudyName,
    address: Dashboard,
    ca_file: CaFile = None,
    *,
    allow_http: AllowHttp = False,
) -> None:
    """List the attempts at a study on a cluster, with their states."""
    client = jobs.client_of(Endpoint(address, ca_file, allow_http))
    jobs.latest_job(client, study, address)
    for job in jobs.jobs_of(client, study):
        typer.echo(str(job))


@app.command()
def logs(
    study: StudyName,
    address: Dashboard,
    ca_file: CaFile = None,
    *,
    allow_http: AllowHttp = False,
) -> None:
    """Follow the output of a study's last job."""
    client = jobs.client_of(Endpoint(address, ca_file, allow_http))
    follow(client, jobs.latest_job(client, study, address))


@app.command()
def stop(
    study: StudyName,
    address: Dashboard,
    wait: Annotated[bool, typer.Option("--wait", help="Return once it has ended.")] = False,
    *,
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
) -> None:
    """Stop a study on a cluster: its trainings save a checkpoint first."""
    client = jobs.client_of(Endpoint(address, ca_file, allow_http))
    job = jobs.latest_job(client, study, address)
    if not job.active:
        typer.echo(f"{job.submission_id}: has ended already ({job.status.lower()})")
        return
    typer.echo(f"{job.submission_id}: asked to stop; trainings save a checkpoint and leave")
    job = jobs.stop(client, job, wait)
    if wait:
        typer.echo(str(job))


@app.command(help=RECIPE_HELP)
def recipe(
    study: Study,
    kind: Annotated[KindName, typer.Option(help="What starts the cluster.")],
    settings: Overrides = None,
    *,
    gpus_per_node: Annotated[int, typer.Option(min=0)] = 8,
    cpus_per_node: Annotated[int, typer.Option(min=1)] = 96,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most nodes of each group; with more of them more of the study's runs train at "
            "once (default: what one run needs, times resources.concurrent_runs).",
        ),
    ] = None,
    image: Annotated[str, typer.Option(help="Container image with this product in it.")] = IMAGE,
) -> None:
    """Print what starts a cluster for a study."""
    spec = read_study(study, settings or [])
    text = recipe_text(
        kind, spec, gpus_per_node, cpus_per_node=cpus_per_node, limit=nodes, image=image
    )
    typer.echo(text, nl=False)


CheckedStudy = Annotated[
    str | None, typer.Argument(help="Also check this study's storage, tracking and devices.")
]
CheckedCluster = Annotated[
    str | None,
    typer.Option(
        "--address", help=f"Check a cluster in place of this machine's storage. {DASHBOARD_HELP}"
    ),
]
Faults = Annotated[
    bool,
    typer.Option(
        "--faults",
        help="Also kill worker, controller and driver of a tiny study here, and prove that no "
        "run is lost or repeated (a few minutes).",
    ),
]
DrillStorage = Annotated[
    str | None,
    typer.Option(
        help="With --faults: keep that study's checkpoints in this folder or object store "
        "(as checkpoint.storage)."
    ),
]


@app.command()
def doctor(
    study: CheckedStudy = None,
    settings: Overrides = None,
    address: CheckedCluster = None,
    *,
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
    faults: Faults = False,
    storage: DrillStorage = None,
) -> None:
    """Check this environment and say what to do; exit 1 where a study could not run."""
    from orchestration.doctor.local_checks import examine

    if storage is not None and not faults:
        raise SpecError(f"--storage {storage}: is for the study of --faults; give both")
    spec = load_study(study, settings or []) if study is not None else None
    endpoint = Endpoint(address, ca_file, allow_http) if address is not None else None
    passed = show_findings(examine(spec, endpoint))
    if faults and passed:
        from orchestration.doctor.fault_drill import run_drill

        passed = run_drill(typer.echo, storage)
    if not passed:
        raise typer.Exit(1)


def show_findings(findings: Iterable[Finding]) -> bool:
    """Print each finding with its remedy as it comes; whether none is a failure."""
    passed = True
    for finding in findings:
        passed = passed and finding.verdict != "fail"
        typer.echo(f"{finding.verdict:4} {finding.name:17} {finding.detail}")
        if finding.remedy:
            typer.echo(f"     {'':17} -> {finding.remedy}")
    return passed


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

    serve(output_folder(output), port, typer.echo, store=store)


def follow(client: Any, job: jobs.Job) -> None:
    """Print the job's output; exit with 1 if it did not succeed."""
    for text in jobs.follow(client, job):
        typer.echo(text, nl=False)
    ended = jobs.refreshed(client, job)
    if ended.status != "SUCCEEDED":
        typer.echo(str(ended), err=True)
        raise typer.Exit(1)
