"""Where a command's job is: a Ray cluster by its address, or a cluster by its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from cola import process_environment
from cola.errors import SpecError
from orchestration.cluster.token_file import token_of
from orchestration.recipes import slurm
from orchestration.recipes.job_site import job_site
from orchestration.recipes.registry import RecipeRequest, request_of
from orchestration.recipes.slurm import long_runs
from orchestration.remote import jobs as ray_jobs
from orchestration.remote.clusters import ClusterSpec, read_cluster
from orchestration.remote.endpoint import Endpoint
from orchestration.remote.packaging import JobEnvironment
from orchestration.remote.submission import Submission, side_by_side
from orchestration.slurm import jobs as slurm_jobs
from orchestration.slurm.times import TEARDOWN_SECONDS


class Destination(Protocol):
    """What commands ask of a cluster of any kind. All methods raise ColaError.

    `shared` is the folder in which outputs lie whose path is relative; None where there is none.
    """

    @property
    def shared(self) -> str | None:
        """See above."""

    def notes(self, work: Submission) -> Sequence[str]:
        """Sentences on what submitting the work would mean, before it is submitted."""

    def submit(self, work: Submission, environment: JobEnvironment) -> Submitted:
        """The jobs of the work, some of which may have been there before."""

    def jobs(self, name: str) -> Sequence[Any]:
        """All known jobs of a study or sweep; SpecError where there is none."""

    def follow(self, jobs: Sequence[Any]) -> Iterator[str]:
        """The jobs' output as it comes, until all have ended."""

    def refreshed(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """The jobs as they are now."""

    def stop(self, jobs: Sequence[Any], wait: bool) -> Sequence[Any]:
        """The jobs after they were asked to stop, or with `wait` once they have ended."""


@dataclass(frozen=True)
class Submitted:
    """Jobs of a study or sweep, of which the first `attached` were there before.

    `problems` are sentences on what is not as it was asked for.
    """

    jobs: Sequence[Any]
    attached: int = 0
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class RayDestination:
    """A Ray cluster, by its dashboard."""

    endpoint: Endpoint
    token: str | None = None  # a reference, env:NAME or file:/path
    shared: str | None = None

    @cached_property
    def client(self) -> Any:
        """Ray's job client, asked once for its answer and the token."""
        self.use_token()
        return ray_jobs.client_of(self.endpoint)

    def use_token(self) -> None:
        """Have this process use the cluster's own token, where its description names one.

        Raises:
            SpecError: there is none.
        """
        if self.token is not None:
            process_environment.ray_token(token_of(self.token))

    def notes(self, work: Submission) -> Sequence[str]:
        """See `Destination`."""
        return ()

    def submit(self, work: Submission, environment: JobEnvironment) -> Submitted:
        """See `Destination`."""
        job, attached = ray_jobs.submit(self.client, work, environment)
        other = job.metadata.get("specification", work.digest) != work.digest
        return Submitted([job], int(attached), [other_version(job, work)] if other else [])

    def jobs(self, name: str) -> Sequence[Any]:
        """See `Destination`."""
        return ray_jobs.known_jobs(self.client, name, self.endpoint.address)

    def follow(self, jobs: Sequence[Any]) -> Iterator[str]:
        """See `Destination`."""
        for job in jobs:
            yield from ray_jobs.follow(self.client, job)

    def refreshed(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """See `Destination`."""
        return [ray_jobs.refreshed(self.client, job) for job in jobs]

    def stop(self, jobs: Sequence[Any], wait: bool) -> Sequence[Any]:
        """See `Destination`."""
        return [ray_jobs.stop(self.client, job, wait) for job in jobs]


@dataclass(frozen=True)
class SlurmDestination:
    """A Slurm cluster, by its description; `allocations` of the command line come before its."""

    cluster: ClusterSpec
    allocations: int | None = None

    @property
    def shared(self) -> str:
        """The folder that all nodes see; relative outputs lie in it."""
        return str(self.cluster.shared)

    @property
    def site(self) -> slurm_jobs.JobSite:
        """Where the jobs lie, and the machine that submits them."""
        return job_site(self.cluster)

    def request(self, work: Submission) -> tuple[RecipeRequest, int]:
        """What a job's script is made from, and how many jobs there are to be.

        Raises:
            SpecError: several jobs are not for this work, or a job cannot have its nodes.
        """
        wanted = self.allocations or self.cluster.allocations
        if self.allocations is None:  # the cluster's is what there may be of any work
            most = 1 if work.kind == "sweep" else work.study.resources.concurrent_runs
            wanted = min(wanted, most or wanted)
        shared, jobs = side_by_side(work, wanted) if wanted > 1 else (work, 1)
        cluster = self.cluster.model_copy(update={"allocations": jobs})
        return request_of(shared, cluster), jobs

    def notes(self, work: Submission) -> Sequence[str]:
        """See `Destination`."""
        request, jobs = self.request(work)
        wanted = self.allocations or self.cluster.allocations
        why = f"the study has {len(work.resources)} runs"
        if work.kind == "sweep":
            why = "one driver proposes all trials of a sweep"
        elif jobs < len(work.resources):
            why = f"resources.concurrent_runs={work.study.resources.concurrent_runs}"
        fewer = [f"{jobs} of {wanted} jobs: {why}"] if jobs < wanted else []
        return [*fewer, *long_runs(request)]

    def submit(self, work: Submission, environment: JobEnvironment) -> Submitted:
        """See `Destination`.

        Raises:
            SpecError: an environment that only Ray builds, or an output that nodes do not see.
        """
        if environment != "cluster":
            raise SpecError(
                f"--environment {environment}: is built by a Ray cluster; on Slurm the lines of "
                "`setup` in clusters.yaml make the environment"
            )
        if not Path(work.study.output).is_relative_to(self.shared):
            raise SpecError(
                f"output={work.study.output}: is not below {self.shared}, the folder that all "
                f"nodes see (shared); use one that is, as --set output={self.shared}/outputs"
            )
        request, count = self.request(work)
        batch = slurm_jobs.Batch(
            work.name, slurm.text(request), request.work.specification, work.digest, count,
            insists=self.allocations is not None,
        )  # fmt: skip
        found = slurm_jobs.submit(self.site, batch)
        problems = [other_version(found.jobs[0], work)] if found.other_version else []
        if found.problem is not None:
            problems.append(f"{len(found.jobs)} of {count} jobs: {found.problem}")
        return Submitted(found.jobs, found.attached, problems)

    def jobs(self, name: str) -> Sequence[Any]:
        """See `Destination`."""
        return slurm_jobs.known_jobs(self.site, name)

    def follow(self, jobs: Sequence[Any]) -> Iterator[str]:
        """See `Destination`."""
        return slurm_jobs.follow(self.site, jobs)

    def refreshed(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """See `Destination`."""
        return slurm_jobs.refreshed(self.site, jobs)

    def stop(self, jobs: Sequence[Any], wait: bool) -> Sequence[Any]:
        """See `Destination`."""
        seconds = self.cluster.grace_seconds + TEARDOWN_SECONDS if wait else None
        return slurm_jobs.stop(self.site, jobs, seconds)


def current(jobs: Sequence[Any]) -> Sequence[Any]:
    """The jobs, of any kind of cluster, that wait or run; where none does, the last one."""
    return [job for job in jobs if job.active] or jobs[-1:]


def other_version(job: Any, work: Submission) -> str:
    """A sentence on a job that was there, of another specification."""
    label = str(job).partition(": ")[0]
    return f"{label} runs another version of this {work.kind}; `cola stop` it first to run this one"


def destination(
    address: str | None,
    cluster: str | None,
    thing: str | None = None,
    *,
    ca_file: Path | None = None,
    allow_http: bool = False,
    allocations: int | None = None,
) -> Destination:
    """The cluster that --address or --cluster names; `thing` is the study's or sweep's file.

    Raises:
        SpecError: none or both are given, the cluster is unknown, or its kind takes no jobs, or no
            `allocations`.
    """
    if allocations is not None and allocations < 1:
        raise SpecError(f"--allocations {allocations}: ask for at least one job")
    if (address is None) == (cluster is None):
        raise SpecError(
            "--address, --cluster: give one of them: the http(s)://HOST:PORT of Ray's dashboard, "
            "or the name of a cluster in clusters.yaml"
        )
    if allocations is not None and address is not None:
        raise SpecError(no_allocations(allocations, f"--address {address}", "a Ray cluster"))
    if address is not None:
        return RayDestination(Endpoint(address, ca_file, allow_http))
    described = read_cluster(str(cluster), thing)
    if described.kind == "slurm":
        return SlurmDestination(described, allocations)
    if allocations is not None:
        raise SpecError(
            no_allocations(allocations, f"--cluster {cluster}", f"of kind: {described.kind}")
        )
    if described.kind == "ray":
        return ray_destination(described, ca_file, allow_http)
    raise SpecError(
        f"--cluster {cluster}: is a {described.kind}; print what starts it with `cola recipe "
        f"THING --cluster {cluster}` and give that to `kubectl apply -f -`"
    )


def no_allocations(allocations: int, place: str, what: str) -> str:
    """Why there are no jobs side by side there."""
    return (
        f"--allocations {allocations}: asks for jobs of Slurm, and {place} is {what}, where one "
        "job trains side by side what its nodes hold; leave it out"
    )


def ray_destination(cluster: ClusterSpec, ca_file: Path | None, allow_http: bool) -> RayDestination:
    """A described Ray cluster; options of the command line come before the description."""
    described = Path(cluster.ca_file) if cluster.ca_file is not None else None
    endpoint = Endpoint(
        str(cluster.address), ca_file or described, allow_http or cluster.allow_http
    )
    return RayDestination(endpoint, cluster.token)
