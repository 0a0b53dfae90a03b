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
from orchestration.recipes.registry import recipe
from orchestration.remote import jobs as ray_jobs
from orchestration.remote.clusters import ClusterSpec, read_cluster
from orchestration.remote.endpoint import Endpoint
from orchestration.remote.packaging import JobEnvironment
from orchestration.remote.submission import Submission
from orchestration.slurm import jobs as slurm_jobs
from orchestration.slurm.times import TEARDOWN_SECONDS


class Destination(Protocol):
    """What commands ask of a cluster of any kind. All methods raise ColaError.

    `shared` is the folder in which outputs lie whose path is relative; None where there is none.
    """

    @property
    def shared(self) -> str | None:
        """See above."""

    def submit(self, work: Submission, environment: JobEnvironment) -> tuple[Any, bool]:
        """The job of the work, and whether it was there before."""

    def jobs(self, name: str) -> Sequence[Any]:
        """All known jobs of a study or sweep; SpecError where there is none."""

    def follow(self, job: Any) -> Iterator[str]:
        """The job's output as it comes, until it has ended."""

    def refreshed(self, job: Any) -> Any:
        """The job as it is now."""

    def stop(self, job: Any, wait: bool) -> Any:
        """The job after it was asked to stop, or with `wait` once it has ended."""


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

    def submit(self, work: Submission, environment: JobEnvironment) -> tuple[Any, bool]:
        """See `Destination`."""
        return ray_jobs.submit(self.client, work, environment)

    def jobs(self, name: str) -> Sequence[Any]:
        """See `Destination`."""
        return ray_jobs.known_jobs(self.client, name, self.endpoint.address)

    def follow(self, job: Any) -> Iterator[str]:
        """See `Destination`."""
        return ray_jobs.follow(self.client, job)

    def refreshed(self, job: Any) -> Any:
        """See `Destination`."""
        return ray_jobs.refreshed(self.client, job)

    def stop(self, job: Any, wait: bool) -> Any:
        """See `Destination`."""
        return ray_jobs.stop(self.client, job, wait)


@dataclass(frozen=True)
class SlurmDestination:
    """A Slurm cluster, by its description."""

    cluster: ClusterSpec

    @property
    def shared(self) -> str:
        """The folder that all nodes see; relative outputs lie in it."""
        return str(self.cluster.shared)

    def submit(self, work: Submission, environment: JobEnvironment) -> tuple[Any, bool]:
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
        return slurm_jobs.submit(recipe("slurm", work, self.cluster), work.name, self.shared)

    def jobs(self, name: str) -> Sequence[Any]:
        """See `Destination`."""
        return slurm_jobs.known_jobs(name, self.shared)

    def follow(self, job: Any) -> Iterator[str]:
        """See `Destination`."""
        return slurm_jobs.follow(job)

    def refreshed(self, job: Any) -> Any:
        """See `Destination`."""
        return slurm_jobs.refreshed(job)

    def stop(self, job: Any, wait: bool) -> Any:
        """See `Destination`."""
        seconds = self.cluster.grace_seconds + TEARDOWN_SECONDS if wait else None
        return slurm_jobs.stop(job, seconds)


def destination(
    address: str | None,
    cluster: str | None,
    thing: str | None = None,
    *,
    ca_file: Path | None = None,
    allow_http: bool = False,
) -> Destination:
    """The cluster that --address or --cluster names; `thing` is the study's or sweep's file.

    Raises:
        SpecError: none or both are given, the cluster is unknown, or its kind takes no jobs.
    """
    if (address is None) == (cluster is None):
        raise SpecError(
            "--address, --cluster: give one of them: the http(s)://HOST:PORT of Ray's dashboard, "
            "or the name of a cluster in clusters.yaml"
        )
    if address is not None:
        return RayDestination(Endpoint(address, ca_file, allow_http))
    described = read_cluster(str(cluster), thing)
    if described.kind == "slurm":
        return SlurmDestination(described)
    if described.kind == "ray":
        return ray_destination(described, ca_file, allow_http)
    raise SpecError(
        f"--cluster {cluster}: is a {described.kind}; print what starts it with `cola recipe "
        f"THING --cluster {cluster}` and give that to `kubectl apply -f -`"
    )


def ray_destination(cluster: ClusterSpec, ca_file: Path | None, allow_http: bool) -> RayDestination:
    """A described Ray cluster; options of the command line come before the description."""
    described = Path(cluster.ca_file) if cluster.ca_file is not None else None
    endpoint = Endpoint(
        str(cluster.address), ca_file or described, allow_http or cluster.allow_http
    )
    return RayDestination(endpoint, cluster.token)
