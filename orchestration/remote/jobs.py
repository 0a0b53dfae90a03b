"""Studies and sweeps on a remote cluster, as Ray Jobs: submit, follow, stop, resume.

Each is one job at a time, known by its name: a second submission attaches to the running one. The
ledger on its storage knows what is finished, so a job that is submitted again resumes it. Tokens
are Ray's own (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token).
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cola.errors import ClusterError, SpecError, one_line
from orchestration.cluster.interpreter import check_interpreter
from orchestration.cluster.token_file import choose_authentication
from orchestration.compat.ray import dashboard_answer, quiet_job_client
from orchestration.remote.endpoint import Endpoint, check_answers, check_endpoint
from orchestration.remote.packaging import (
    STOP_SECONDS,
    JobEnvironment,
    pinned_version,
    runtime_environment,
)
from orchestration.remote.submission import Submission

log = logging.getLogger(__name__)

PREFIX = "cola"
POLL_SECONDS = 1.0
# How long a dashboard that restarts or a network that fails is waited for; a chosen value.
LOST_SECONDS = 60.0
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """One attempt at a study on the cluster, with the `metadata` that `submit` recorded."""

    submission_id: str
    attempt: int
    status: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether the job waits or runs."""
        return self.status not in ENDED

    @property
    def succeeded(self) -> bool:
        """Whether it has finished its study or sweep."""
        return self.status == "SUCCEEDED"

    def as_json(self) -> dict[str, Any]:
        """The job as plain values."""
        reason = self.message or None
        return {"id": self.submission_id, "state": self.status.lower(), "reason": reason}

    def __str__(self) -> str:
        return f"{self.submission_id}: {self.status.lower()} {self.message}".rstrip()


def client_of(endpoint: Endpoint) -> Any:
    """Ray's job client.

    Raises:
        SpecError: a malformed address, or a remote one without a token or TLS.
        ClusterError: it does not answer, or refuses the token.
    """
    check_interpreter()
    check_endpoint(endpoint)
    check_answers(endpoint)
    choose_authentication()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    quiet_job_client()
    try:
        client = JobSubmissionClient(endpoint.address, verify=endpoint.verify)
        client.list_jobs()  # the first request that a wrong token shows at
    except AuthenticationError:
        raise ClusterError(
            f"--address {endpoint.address}: refuses this token; set RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to the cluster's own"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ClusterError(
            f"--address {endpoint.address}: does not take jobs ({one_line(error)}); give the "
            "address of Ray's dashboard"
        ) from None
    log.debug("%s takes jobs", endpoint.address)
    return client


def jobs_of(client: Any, study: str) -> list[Job]:
    """All attempts at a study, first to last."""
    jobs = []
    for details in client.list_jobs():
        stem, _, number = (details.submission_id or "").rpartition("-")
        if stem == f"{PREFIX}-{study}" and number.isdigit():
            jobs.append(job_of(details))
    return sorted(jobs, key=lambda job: job.attempt)


def job_of(details: Any) -> Job:
    """A job from Ray's details; one that is no study's attempt has attempt 0."""
    name, metadata = str(details.submission_id), dict(details.metadata or {})
    number = name.rpartition("-")[2]
    attempt = int(number) if number.isdigit() else 0
    return Job(name, attempt, str(details.status.value), details.message or "", metadata)


def refreshed(client: Any, job: Job) -> Job:
    """The job with its present status."""
    return job_of(client.get_job_info(job.submission_id))


def submit(
    client: Any, work: Submission, environment: JobEnvironment = "cluster"
) -> tuple[Job, bool]:
    """The job of a study or sweep, and whether it was submitted before (this call attached to it).

    Of several submissions at the same time one wins, and the others attach to its job.

    Raises:
        ClusterError: the cluster refuses it.
    """
    earlier = jobs_of(client, work.name)
    if earlier and earlier[-1].active:
        log.info("%s is active: attached", earlier[-1].submission_id)
        return earlier[-1], True
    if environment == "pinned":
        check_same_ray(client)
    attempt = earlier[-1].attempt + 1 if earlier else 1
    name = f"{PREFIX}-{work.name}-{attempt}"
    with tempfile.TemporaryDirectory(prefix="cola-submit-") as folder:
        try:
            client.submit_job(
                entrypoint=f"cola {' '.join(work.verbs)} {work.file} --address auto",
                submission_id=name,
                runtime_env=runtime_environment(
                    environment, Path(folder), {work.file: work.specification}
                ),
                metadata={
                    "study": work.name,
                    "kind": work.kind,
                    "output": work.study.output,
                    "tracking": work.study.tracking.uri or "",
                    "storage": work.study.checkpoint.storage or "",
                    "mirror": work.study.output_mirror or "",
                    "environment": environment,
                    "specification": work.digest,
                },
            )
            attached = False
        except RuntimeError as error:
            # Ray takes a name once: another submission came between the listing and this one.
            if f"submission_id {name} already exists" not in str(error):
                raise ClusterError(
                    f"{work.kind} {work.name}: the cluster refuses it ({one_line(error)}); see the "
                    "dashboard's log on the head node"
                ) from None
            attached = True
    log.info("%s: %s", name, "attached" if attached else "submitted")
    return job_of(client.get_job_info(name)), attached


def check_same_ray(client: Any) -> None:
    """Check that the cluster's Ray is the pinned one: a job's environment cannot replace it.

    Raises:
        ClusterError: the versions differ.
    """
    version, pinned = server_version(client), pinned_version("ray")
    if version != pinned:
        raise ClusterError(
            f"--environment pinned: constraints.txt pins ray=={pinned}, the cluster runs "
            f"{version}; use a cluster of that version, or --environment cluster"
        )


def server_version(client: Any) -> str:
    """The version of Ray on the cluster."""
    return str(dashboard_answer(client, "/api/version")["ray_version"])


def nodes_of(client: Any) -> list[dict[str, Any]]:
    """The cluster's nodes: their `state`, `resources_total` and `labels`, as Ray's state API."""
    answer = dashboard_answer(client, "/api/v0/nodes?detail=1&limit=10000")
    return list(answer["data"]["result"]["result"])


def known_jobs(client: Any, study: str, address: str) -> list[Job]:
    """All attempts at a study, first to last; at least one.

    Raises:
        SpecError: the cluster has no job of this study.
    """
    jobs = jobs_of(client, study)
    if not jobs:
        raise SpecError(f"study {study}: {address} knows no job of it; submit it first")
    return jobs


def follow(client: Any, job: Job) -> Iterator[str]:
    """The job's output as it comes, until the job has ended.

    Raises:
        ClusterError: the cluster has not answered for a minute; the job is left as it is.
    """
    length, answered_at = 0, time.monotonic()
    while True:
        try:
            ended = not refreshed(client, job).active
            text = client.get_job_logs(job.submission_id)
        except (OSError, RuntimeError) as error:
            if time.monotonic() - answered_at > LOST_SECONDS:
                raise ClusterError(
                    f"{job.submission_id}: the cluster has not answered for {LOST_SECONDS:g} s "
                    f"({one_line(error)}); this does not stop the job: `cola logs` attaches again"
                ) from None
            log.warning("%s: no answer, asking again: %s", job.submission_id, one_line(error))
            time.sleep(POLL_SECONDS)
            continue
        answered_at = time.monotonic()
        if len(text) > length:
            yield text[length:]
            length = len(text)
        if ended:
            return
        time.sleep(POLL_SECONDS)


def stop(client: Any, job: Job, wait: bool = False) -> Job:
    """Ask the job to stop: its trainings save a checkpoint and leave. `wait` until they have.

    Raises:
        ClusterError: it has not ended by the time that Ray ends it by force.
    """
    log.info("stopping %s", job.submission_id)
    client.stop_job(job.submission_id)
    if wait:
        return wait_for_end(client, job, STOP_SECONDS + LOST_SECONDS)
    return refreshed(client, job)


def wait_for_end(client: Any, job: Job, seconds: float) -> Job:
    """The job once it has ended.

    Raises:
        ClusterError: it is still active after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while (now := refreshed(client, job)).active:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{job.submission_id}: is still {now.status.lower()} after {seconds:g} s; see its "
                "page on the dashboard, or call `cola stop --wait` again"
            )
        time.sleep(POLL_SECONDS)
    return now
