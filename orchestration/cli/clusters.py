"""Commands around a cluster and this machine: recipe, cluster check, doctor, mlflow."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cola.errors import SpecError
from orchestration.cli.destinations import SlurmDestination
from orchestration.cli.options import (
    DASHBOARD_HELP,
    Allocations,
    AllowHttp,
    AsJson,
    ByRung,
    CaFile,
    ClusterName,
    Overrides,
    Rungs,
    Scale,
    SweepOverrides,
    output_folder,
)
from orchestration.cli.things import submission_of
from orchestration.planning.catalog import load_study
from orchestration.planning.units import rungs_as_text, rungs_in
from orchestration.recipes.registry import IMAGE, kinds
from orchestration.recipes.registry import recipe as recipe_text
from orchestration.remote.clusters import ClusterSpec, read_cluster
from orchestration.remote.endpoint import Endpoint
from orchestration.remote.submission import Submission

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestration.doctor.finding import Finding

    KindName = str
else:
    KindName = Literal[tuple(kinds())]

app = typer.Typer(no_args_is_help=True, add_completion=False)
cluster_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Clusters that clusters.yaml describes."
)
app.add_typer(cluster_app, name="cluster")

*FIRST_OUTPUTS, LAST_OUTPUT = (kind.output for kind in kinds().values())
RECIPE_HELP = f"""
Print {", ".join(FIRST_OUTPUTS)} or {LAST_OUTPUT} for a study or sweep.

Credentials are referred to by name: put them into the secret `cola-credentials` (KubeRay), or
export them where `sbatch` or `ray up`'s nodes find them. `--kind image` needs neither a study nor a
sweep; with `--gpus-per-node 0` the image is for CPUs.
"""
RecipeThing = Annotated[
    str | None,
    typer.Argument(help="A shipped study's or sweep's name, or a YAML file of one."),
]
SlurmTime = Annotated[
    str | None, typer.Option("--time", help="Slurm: time limit of a job (default: by the plan).")
]
Grace = Annotated[
    int | None,
    typer.Option(
        min=1, help="Slurm: seconds before the limit for saving a checkpoint (default: 600)."
    ),
]
Exclusive = Annotated[
    bool | None, typer.Option("--exclusive/--shared", help="Slurm: take whole nodes, or parts.")
]


@app.command(help=RECIPE_HELP)
def recipe(
    context: typer.Context,
    thing: RecipeThing = None,
    kind: Annotated[
        KindName | None, typer.Option(help="What starts the cluster (default: the cluster's).")
    ] = None,
    settings: Overrides = None,
    *,
    cluster: ClusterName = None,
    scale: Scale = None,
    sweep_settings: SweepOverrides = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=0, help="Default: the cluster's, or 8.")
    ] = None,
    cpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="Default: the cluster's, or 96.")
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most nodes of each group; with more of them more of the study's runs train at "
            "once (default: what one run needs, times resources.concurrent_runs).",
        ),
    ] = None,
    time: SlurmTime = None,
    grace: Grace = None,
    exclusive: Exclusive = None,
    allocations: Allocations = None,
    by_rung: ByRung = None,
    rungs: Rungs = None,
    image: Annotated[
        str | None,
        typer.Option(
            help=f"Container image with this product (default: the cluster's, or {IMAGE})."
        ),
    ] = None,
) -> None:
    """Print what starts a cluster for a study or sweep."""
    described = described_cluster(cluster, kind, thing)
    changes = {
        "gpus_per_node": gpus_per_node,
        "cpus_per_node": cpus_per_node,
        "nodes": nodes,
        "time": time,
        "grace_seconds": grace,
        "exclusive": exclusive,
        "allocations": allocations,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    chosen, work = kind or described.kind, None
    by_size = {"by_rung": by_rung, "rungs": rungs}
    check_options(chosen, given | {k: v for k, v in by_size.items() if v is not None})
    wanted = with_options(described, given)
    if thing is not None:
        work = submission_of(
            context.obj, thing, settings or [], scale=scale, sweep_settings=sweep_settings or [],
            shared=described.shared if cluster is not None else None,
        )  # fmt: skip
        if chosen == "slurm":
            to = SlurmDestination(wanted, allocations, by_rung)
            work, wanted = job_of(to, work, rungs)
    elif settings or scale is not None or sweep_settings:
        raise SpecError("--set, --scale, --sweep-set: are for a study or sweep; name it first")
    typer.echo(recipe_text(chosen, work, wanted, image=image), nl=False)


SENT_BY_SUBMIT = (
    "send_sources: `cola submit` sends them; this script takes the `cola` of its environment"
)
# What a recipe that is for no study is made from, and options that are not named as their key.
OF_IMAGES = ("gpus_per_node",)
NAMES = {"grace_seconds": "grace"}


def check_options(kind: str, given: Mapping[str, Any]) -> None:
    """Check that a recipe which is for no study gets no option of jobs, and jobs by rung are
    Slurm's.

    Raises:
        SpecError: naming the option.
    """
    for key, value in given.items():
        option = "--" + NAMES.get(key, key).replace("_", "-")
        option += "" if isinstance(value, bool) else f" {value}"
        if kinds()[kind].alone is not None and key not in OF_IMAGES:
            raise SpecError(
                f"{option}: is for jobs; --kind {kind} takes --gpus-per-node (0: for CPUs) and "
                "--image, the image's name; leave it out"
            )
        if kind != "slurm" and key in ("by_rung", "rungs"):
            raise SpecError(f"{option}: is for --kind slurm, and this is {kind}; leave it out")


def job_of(
    to: SlurmDestination, work: Submission, rungs: str | None
) -> tuple[Submission, ClusterSpec]:
    """What each of a cluster's jobs runs, or those for `rungs`; what there is to know of them goes
    to stderr.

    Raises:
        SpecError: the work cannot have such jobs, or there are jobs of several sizes, and none of
            them for just these rungs.
    """
    if to.cluster.send_sources:
        typer.echo(SENT_BY_SUBMIT, err=True)
    why = to.why_one_size(work)
    for sentence in to.notes_of_one_size(work, why) if why else to.notes_by_rung(work, ()):
        typer.echo(sentence, err=True)
    if why is not None:
        if rungs is not None:
            raise SpecError(f"--rungs {rungs}: is for jobs by rung (--by-rung): {why}")
        request, _ = to.request(work)
        return request.work, request.cluster
    jobs = {each.rungs: each.request for each in to.jobs_by_rung(work, ())}
    chosen = None if rungs is None else rungs_as_text(rungs_in(rungs))
    if chosen not in jobs:
        given = "--by-rung" if rungs is None else f"--rungs {rungs}"
        raise SpecError(
            f"{given}: jobs of each size have a script of their own; print one with --rungs "
            f"{' or --rungs '.join(jobs)}"
        )
    return jobs[chosen].work, jobs[chosen].cluster


def described_cluster(name: str | None, kind: str | None, thing: str | None) -> ClusterSpec:
    """The cluster of that name, or one of the kind with nothing but defaults.

    Raises:
        SpecError: neither is given, the cluster is of another kind, or none that recipes start.
    """
    if name is None:
        if kind is None:
            raise SpecError(
                f"--kind: give one of {', '.join(kinds())}, or a cluster of clusters.yaml "
                "(--cluster NAME)"
            )
        return default_cluster(kind)
    described = read_cluster(name, thing)
    if kind is not None and kinds()[kind].alone is not None:
        return described
    if kind not in (None, described.kind):
        raise SpecError(
            f"--kind {kind}: the cluster {name} is a {described.kind}; leave one of the two out"
        )
    if described.kind not in kinds():
        raise SpecError(
            f"--cluster {name}: is a Ray cluster that runs already, so there is nothing to start; "
            f"`cola submit {thing or 'THING'} --cluster {name}` sends it there"
        )
    return described


def default_cluster(kind: str) -> ClusterSpec:
    """A cluster that is not described: of `kind: slurm` for its options, else of another."""
    if kind == "slurm":
        return ClusterSpec(kind="slurm", shared="/")  # every absolute path lies below it
    return ClusterSpec(kind="kuberay")


def with_options(cluster: ClusterSpec, changes: dict[str, Any]) -> ClusterSpec:
    """The cluster with what the command line changes of it.

    Raises:
        SpecError: an option is not for its kind, or has no valid value.
    """
    given = cluster.model_dump(mode="json", exclude_unset=True)
    return ClusterSpec.parse(given | changes, origin="options")


@cluster_app.command("check")
def check_cluster(
    name: Annotated[str, typer.Argument(help="The cluster's name in clusters.yaml.")],
    as_json: AsJson = False,
) -> None:
    """Check that a described cluster can run studies: its answer, its limits, its storage."""
    if not show_findings(cluster_findings(name, None, None), as_json):
        raise typer.Exit(1)


@cluster_app.command("list")
def list_clusters(as_json: AsJson = False) -> None:
    """List the clusters that are described, with where."""
    from orchestration.remote.clusters import known_clusters

    if as_json:
        rows = [
            {"name": name, "kind": described.kind, "file": str(path)}
            for name, (described, path) in known_clusters().items()
        ]
        typer.echo(json.dumps({"clusters": rows}, indent=1))
        return
    for name, (described, path) in known_clusters().items():
        typer.echo(f"{name:20} {described.kind:8} {path}")


def cluster_findings(name: str, study: str | None, spec: Any) -> Iterable[Finding]:
    """The findings about a described cluster."""
    from orchestration.cli.destinations import ray_destination
    from orchestration.doctor.cluster_checks import cluster as ray_checks
    from orchestration.doctor.local_checks import resources_of
    from orchestration.doctor.slurm_checks import slurm_cluster

    described = read_cluster(name, study)
    if described.kind == "slurm":
        return slurm_cluster(described)
    if described.kind == "ray":
        to = ray_destination(described, None, False)
        to.use_token()
        return ray_checks(to.endpoint, resources_of(spec) if spec is not None else [])
    raise SpecError(
        f"--cluster {name}: is a {described.kind}, which this machine does not speak to; `kubectl "
        "get raycluster` shows whether its operator is there"
    )


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
    cluster: ClusterName = None,
    ca_file: CaFile = None,
    allow_http: AllowHttp = False,
    faults: Faults = False,
    storage: DrillStorage = None,
    as_json: AsJson = False,
) -> None:
    """Check this environment and say what to do; exit 1 where a study could not run."""
    from orchestration.doctor.local_checks import examine

    if as_json and faults:
        raise SpecError("--json: is of the checks alone, and --faults is a drill; leave one out")
    if storage is not None and not faults:
        raise SpecError(f"--storage {storage}: is for the study of --faults; give both")
    spec = load_study(study, settings or []) if study is not None else None
    passed = True
    if cluster is None:
        endpoint = Endpoint(address, ca_file, allow_http) if address is not None else None
        passed = show_findings(examine(spec, endpoint), as_json)
    elif address is not None:
        raise SpecError(f"--cluster {cluster}: give it or --address, not both")
    else:
        passed = show_findings(cluster_findings(cluster, study, spec), as_json)
    if faults and passed:
        from orchestration.doctor.fault_drill import run_drill

        passed = run_drill(typer.echo, storage)
    if not passed:
        raise typer.Exit(1)


def show_findings(findings: Iterable[Finding], as_json: bool) -> bool:
    """Print each finding with its remedy as it comes, or all as JSON; whether none is a failure."""
    passed, rows = True, []
    for finding in findings:
        passed = passed and finding.verdict != "fail"
        rows.append(asdict(finding))
        if not as_json:
            typer.echo(f"{finding.verdict:4} {finding.name:17} {finding.detail}")
            if finding.remedy:
                typer.echo(f"     {'':17} -> {finding.remedy}")
    if as_json:
        typer.echo(json.dumps({"passed": passed, "findings": rows}, indent=1))
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
