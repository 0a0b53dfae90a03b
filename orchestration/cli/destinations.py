"""Where a command's job is: a Ray cluster by its address, or a cluster by its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from cola import process_environment
from cola.errors import SpecError
from orchestration.cli.options import chosen_cluster
from orchestration.cluster.token_file import token_of
from orchestration.recipes import slurm
from orchestration.recipes.files import with_files_sent
from orchestration.recipes.job_site import job_site
from orchestration.recipes.registry import RecipeRequest, request_of
from orchestration.recipes.rungs import (
    RungJobs,
    finished_rungs,
    jobs_by_rung,
    sentences_of,
    sizes_of,
    table_of,
    unfinished_rungs,
)
from orchestration.recipes.slurm import long_runs
from orchestration.recipes.sources import setup_with, sources_for, why_sent
from orchestration.remote import jobs as ray_jobs
from orchestration.remote.clusters import ClusterSpec, read_cluster
from orchestration.remote.endpoint import Endpoint
from orchestration.remote.packaging import JobEnvironment
from orchestration.remote.submission import Submission, side_by_side
from orchestration.slurm import jobs as slurm_jobs
from orchestration.slurm.batch import Batch, Script
from orchestration.slurm.jobs import rungs_taken
from orchestration.slurm.times import TEARDOWN_SECONDS


class Destination(Protocol):
    """What commands ask of a cluster of any kind. All methods raise ColaError.

    `shared` is the folder in which outputs lie whose path is relative; None where there is none. An
    `environment` of None is what the cluster's description says.
    """

    @property
    def shared(self) -> str | None:
        """See above."""

    def sends_files(self, environment: JobEnvironment | None) -> bool:
        """Whether the study's files are sent from this machine, so that its paths are of here."""

    def notes(self, work: Submission) -> Sequence[str]:
        """Sentences on what submitting the work would mean, before it is submitted."""

    def submit(self, work: Submission, environment: JobEnvironment | None) -> Submitted:
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

    def sends_files(self, environment: JobEnvironment | None) -> bool:
        """See `Destination`."""
        return False

    def notes(self, work: Submission) -> Sequence[str]:
        """See `Destination`."""
        return ()

    def submit(self, work: Submission, environment: JobEnvironment | None) -> Submitted:
        """See `Destination`.

        Raises:
            SpecError: an environment that only Slurm has.
        """
        if environment == "sources":
            raise SpecError(
                "--environment sources: is for Slurm; --environment pinned sends this checkout's "
                "sources to a Ray cluster, which builds them"
            )
        job, attached = ray_jobs.submit(self.client, work, environment or "cluster")
        other = job.metadata.get("specification", work.digest) != work.digest
        problems = [other_version(job, f"another version of this {work.kind}")] if other else []
        return Submitted([job], int(attached), problems)

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
    """A Slurm cluster, by its description; what the command line says comes before it."""

    cluster: ClusterSpec
    allocations: int | None = None
    by_rung: bool | None = None

    @property
    def shared(self) -> str:
        """The folder that all nodes see; relative outputs lie in it."""
        return str(self.cluster.shared)

    @property
    def site(self) -> slurm_jobs.JobSite:
        """Where the jobs lie, and the machine that submits them."""
        return job_site(self.cluster)

    def request(self, work: Submission) -> tuple[RecipeRequest, int]:
        """What the script of equal jobs is made from, and how many of them there are to be.

        Raises:
            SpecError: several jobs are not for this work, or a job cannot have its nodes.
        """
        wanted = self._wanted(work)
        shared, jobs = side_by_side(work, wanted) if wanted > 1 else (work, 1)
        cluster = self.cluster.model_copy(update={"allocations": jobs})
        return request_of(shared, cluster), jobs

    def _wanted(self, work: Submission) -> int:
        """How many jobs there are to be, if the study has as many runs."""
        if self.allocations is not None:
            return self.allocations
        # The cluster's is what there may be of any work.
        most = 1 if work.kind == "sweep" else work.study.resources.concurrent_runs
        return min(self.cluster.allocations, most or self.cluster.allocations)

    def why_one_size(self, work: Submission) -> str | None:
        """Why jobs of the work are of one size; None where they are by rung.

        Raises:
            SpecError: jobs by rung are asked for on the command line, and cannot be.
        """
        if self.by_rung and work.kind == "sweep":
            raise SpecError(
                f"--by-rung: is for studies, and {work.name} is a sweep, whose trials one driver "
                "proposes; leave it out"
            )
        if self.by_rung and self.allocations == 1:
            raise SpecError(
                "--by-rung: is for several jobs, and --allocations 1 asks for one; leave one of "
                "the two out"
            )
        wished = self.cluster.by_rung if self.by_rung is None else self.by_rung
        if not wished or work.kind == "sweep":
            return "by_rung is not set"
        if self.allocations == 1 or work.study.resources.concurrent_runs == 1:
            return "one run trains at a time"
        if len(sizes_of(work, self.cluster, unfinished_rungs(work))) < 2:
            return "all runs that are not finished fit jobs of one size"
        return None

    def jobs_by_rung(
        self, work: Submission, active: Sequence[slurm_jobs.SlurmJob]
    ) -> list[RungJobs]:
        """Jobs of a study for the rungs that none of the `active` ones takes.

        Raises:
            SpecError: a job cannot have its nodes, or there are too many jobs or too few.
        """
        taken = rungs_taken(active)
        left = unfinished_rungs(work) - taken if taken is not None else frozenset[int]()
        if not left:
            return []
        given = self.allocations is not None or "allocations" in self.cluster.model_fields_set
        wanted = max(1, self._wanted(work) - len(active)) if given else None
        return jobs_by_rung(
            work, self.cluster, wanted, rungs=left, beside=len(active), allocations=self.allocations
        )

    def notes(self, work: Submission) -> Sequence[str]:
        """See `Destination`."""
        why = self.why_one_size(work)
        if why is None:
            return self.notes_by_rung(work, slurm_jobs.active_jobs(self.site, work.name))
        return self.notes_of_one_size(work, why)

    def notes_by_rung(
        self, work: Submission, active: Sequence[slurm_jobs.SlurmJob]
    ) -> Sequence[str]:
        """Sentences on jobs by rung: a table of them, and what is to be known of their runs."""
        jobs = self.jobs_by_rung(work, active)
        if not jobs:
            return [f"all rungs of {work.name} are taken by the {len(active)} jobs that are there"]
        return [*finished_rungs(work), *table_of(jobs), *sentences_of(jobs)]

    def notes_of_one_size(self, work: Submission, why: str) -> Sequence[str]:
        """Sentences on equal jobs; `why` they are is one of them where jobs by rung are wished."""
        request, jobs = self.request(work)
        wanted = self.allocations or self.cluster.allocations
        least = f"the study has {len(work.resources)} runs"
        if work.kind == "sweep":
            least = "one driver proposes all trials of a sweep"
        elif jobs < len(work.resources):
            least = f"resources.concurrent_runs={work.study.resources.concurrent_runs}"
        fewer = [f"{jobs} of {wanted} jobs: {least}"] if jobs < wanted else []
        same = [f"jobs are of one size: {why}"] if self.by_rung else []
        return [*same, *fewer, *long_runs(request)]

    def submit(self, work: Submission, environment: JobEnvironment | None) -> Submitted:
        """See `Destination`.

        Raises:
            SpecError: an environment that only Ray builds, or an output that nodes do not see.
        """
        if environment == "pinned":
            raise SpecError(
                "--environment pinned: is built by a Ray cluster; on Slurm the lines of `setup` in "
                "clusters.yaml make the environment, and --environment sources sends this "
                "checkout's sources to it"
            )
        if not Path(work.study.output).is_relative_to(self.shared):
            raise SpecError(
                f"output={work.study.output}: is not below {self.shared}, the folder that all "
                f"nodes see (shared); use one that is, as --set output={self.shared}/outputs"
            )
        slurm_jobs.check_shared(self.site)
        if self.sends_files(environment):
            work = with_files_sent(work, self.site)
        sources = sources_for(self.cluster, self.site, environment)
        batch = self.batch(work, sources)
        found = slurm_jobs.submit(self.site, batch)
        problems = [other_version(found.jobs[0], found.other)] if found.other is not None else []
        if found.problem is not None:
            total = batch.total(found.attached)
            problems.append(f"{len(found.jobs)} of {total} jobs: {found.problem}")
        return Submitted(found.jobs, found.attached, problems)

    def sends_files(self, environment: JobEnvironment | None) -> bool:
        """See `Destination`."""
        return self.cluster.ssh is not None and why_sent(self.cluster, environment) is not None

    def batch(self, work: Submission, sources: str | None) -> Batch:
        """The jobs that the work is to have, with the folder of the sources that were sent."""
        if self.why_one_size(work) is not None:
            request, count = self.request(work)
            scripts = [Script(slurm.text(request, sources), count)]
            specification = request.work.specification
        else:
            jobs = self.jobs_by_rung(work, slurm_jobs.active_jobs(self.site, work.name))
            scripts = [
                Script(slurm.text(each.request, sources), each.count, each.rungs) for each in jobs
            ]
            specification = jobs[0].request.work.specification if jobs else work.specification
        return Batch(
            work.name, scripts, specification, work.digest,
            insists=self.allocations is not None, sources=sources,
        )  # fmt: skip

    def setup_of(self, name: str) -> list[str]:
        """The lines of bash that make the environment of the last jobs of a name."""
        last = slurm_jobs.last_submission(self.site, name)
        return setup_with(self.cluster, None if last is None else last.sources)

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


def other_version(job: Any, what: str) -> str:
    """A sentence on a job that was there, and runs something else."""
    label = str(job).partition(": ")[0]
    return f"{label} runs {what}; `cola stop` it first to run this one"


def destination(
    address: str | None,
    cluster: str | None,
    thing: str | None = None,
    *,
    ca_file: Path | None = None,
    allow_http: bool = False,
    allocations: int | None = None,
    by_rung: bool | None = None,
) -> Destination:
    """The cluster that --address or --cluster names, or the only one that is described; `thing` is
    the study's or sweep's file.

    Raises:
        SpecError: `chosen_cluster` refuses, the cluster is unknown, its kind takes no jobs, or no
            `allocations` or jobs by rung.
    """
    if allocations is not None and allocations < 1:
        raise SpecError(f"--allocations {allocations}: ask for at least one job")
    cluster = chosen_cluster(address, cluster, thing)
    given = [f"--allocations {allocations}"] if allocations is not None else []
    given += ["--by-rung"] if by_rung is not None else []
    if address is not None:
        if given:
            raise SpecError(slurm_only(given[0], f"--address {address}", "a Ray cluster"))
        return RayDestination(Endpoint(address, ca_file, allow_http))
    described = read_cluster(str(cluster), thing)
    if described.kind == "slurm":
        return SlurmDestination(described, allocations, by_rung)
    if given:
        raise SpecError(slurm_only(given[0], f"--cluster {cluster}", f"of kind: {described.kind}"))
    if described.kind == "ray":
        return ray_destination(described, ca_file, allow_http)
    raise SpecError(
        f"--cluster {cluster}: is a {described.kind}; print what starts it with `cola recipe "
        f"THING --cluster {cluster}` and give that to `kubectl apply -f -`"
    )


def slurm_only(option: str, place: str, what: str) -> str:
    """Why there are no jobs side by side there."""
    return (
        f"{option}: asks for jobs of Slurm, and {place} is {what}, where one job trains side by "
        "side what its nodes hold; leave it out"
    )


def ray_destination(cluster: ClusterSpec, ca_file: Path | None, allow_http: bool) -> RayDestination:
    """A described Ray cluster; options of the command line come before the description."""
    described = Path(cluster.ca_file) if cluster.ca_file is not None else None
    endpoint = Endpoint(
        str(cluster.address), ca_file or described, allow_http or cluster.allow_http
    )
    return RayDestination(endpoint, cluster.token)
