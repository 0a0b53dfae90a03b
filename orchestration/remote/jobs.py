"""Studies on a remote cluster, as Ray Jobs: submit, follow, stop, go on.

A study is one job at a time, found again by its name: a second submission attaches to the running
one. What is finished is known to the study's ledger on its storage, so a job that is submitted
again goes on. Tokens are Ray's own (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cola import process_environment
from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.compat.ray import dashboard_answer, quiet_job_client, reread_environment
from orchestration.remote.endpoint import Endpoint, check_answers, check_endpoint, has_token, short
from orchestration.remote.packaging import (
    STOP_SECONDS,
    STUDY_FILE,
    Where,
    check_study,
    pinned_version,
    runtime_environment,
)

PREFIX = "cola"
POLL_SECONDS = 1.0
LOST_SECONDS = 60.0  # a dashboard that restarts or a network that stutters is waited for
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """One attempt at a study on the cluster; `metadata` is what `submit` noted with it."""

    submission_id: str
    attempt: int
    status: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.status not in ENDED

    def __str__(self) -> str:
        return f"{self.submission_id}: {self.status.lower()} {self.message}".rstrip()


def choose_authentication() -> None:
    """Tokens where there is one, unless the environment says which; a Ray that is loaded already
    is told, or what it starts later would ask for tokens that it does not send."""
    if process_environment.job_client(has_token=has_token()):
        reread_environment()


def client_of(endpoint: Endpoint) -> Any:
    """Ray's job client.

    Raises:
        SpecError: an address that is none, a remote one without a token or TLS, one that does not
            answer, or one that refuses the token.
    """
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
        raise SpecError(
            f"--address {endpoint.address}: refuses this token; set RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to the cluster's own"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = short(error)
        raise SpecError(f"--address {endpoint.address}: does not take jobs ({reason})") from None
    return client


def jobs_of(client: Any, study: str) -> list[Job]:
    """All attempts at a study, in order."""
    found = []
    for details in client.list_jobs():
        stem, _, number = (details.submission_id or "").rpartition("-")
        if stem == f"{PREFIX}-{study}" and number.isdigit():
            found.append(job_of(details))
    return sorted(found, key=lambda job: job.attempt)


def job_of(details: Any) -> Job:
    """What Ray says of a job; one that is no study's attempt has number 0."""
    name, metadata = str(details.submission_id), dict(details.metadata or {})
    number = name.rpartition("-")[2]
    attempt = int(number) if number.isdigit() else 0
    return Job(name, attempt, str(details.status.value), details.message or "", metadata)


def again(client: Any, job: Job) -> Job:
    """The job as it stands now."""
    return job_of(client.get_job_info(job.submission_id))


def submit(client: Any, study: StudySpec, where: Where = "cluster") -> tuple[Job, bool]:
    """Submit the study, or find the job that carries it out already (then True).

    Of several submissions at the same time one wins, and the others attach to its job.

    Raises:
        SpecError: a study with relative paths or a secret in it, or one that the cluster refuses.
    """
    check_study(study)
    before = jobs_of(client, study.name)
    if before and before[-1].active:
        return before[-1], True
    if where == "pinned":
        check_same_ray(client)
    attempt = before[-1].attempt + 1 if before else 1
    name = f"{PREFIX}-{study.name}-{attempt}"
    with tempfile.TemporaryDirectory(prefix="cola-submit-") as folder:
        try:
            client.submit_job(
                entrypoint=f"cola run {STUDY_FILE} --address auto",
                submission_id=name,
                runtime_env=runtime_environment(where, Path(folder), study),
                metadata={
                    "study": study.name,
                    "output": study.output,
                    "environment": where,
                    "specification": study.content_hash(),
                },
            )
            attached = False
        except RuntimeError as error:
            # Ray takes a name once: another submission came between the look and this one.
            if f"submission_id {name} already exists" not in str(error):
                raise SpecError(f"study {study.name}: is not taken ({short(error)})") from None
            attached = True
    return job_of(client.get_job_info(name)), attached


def check_same_ray(client: Any) -> None:
    """An environment that is built on the cluster cannot bring another version of Ray.

    Raises:
        SpecError: the cluster's differs from the one that is pinned.
    """
    there, pinned = server_version(client), pinned_version("ray")
    if there != pinned:
        raise SpecError(
            f"--environment pinned: constraints.txt pins ray=={pinned}, the cluster runs {there}; "
            "use a cluster of that version, or --environment cluster"
        )


def server_version(client: Any) -> str:
    """The version of Ray on the cluster."""
    return str(dashboard_answer(client, "/api/version")["ray_version"])


def nodes_of(client: Any) -> list[dict[str, Any]]:
    """The cluster's nodes: their `state`, `resources_total` and `labels`, as Ray's state API."""
    answer = dashboard_answer(client, "/api/v0/nodes?detail=1&limit=10000")
    return list(answer["data"]["result"]["result"])


def latest(client: Any, study: str, address: str) -> Job:
    """The last attempt at a study.

    Raises:
        SpecError: when the cluster knows none.
    """
    found = jobs_of(client, study)
    if not found:
        raise SpecError(f"study {study}: {address} knows no job of it; submit it first")
    return found[-1]


def follow(client: Any, job: Job) -> Iterator[str]:
    """The job's output as it comes, until it has ended.

    Raises:
        SpecError: the cluster has not answered for a minute; the job is left as it is.
    """
    told, heard = 0, time.monotonic()
    while True:
        try:
            ended = not again(client, job).active
            text = client.get_job_logs(job.submission_id)
        except (OSError, RuntimeError) as error:
            if time.monotonic() - heard > LOST_SECONDS:
                raise SpecError(
                    f"{job.submission_id}: the cluster does not answer any more ({short(error)}); "
                    "the job is not touched by that: `cola logs` attaches again"
                ) from None
            time.sleep(POLL_SECONDS)
            continue
        heard = time.monotonic()
        if len(text) > told:
            yield text[told:]
            told = len(text)
        if ended:
            return
        time.sleep(POLL_SECONDS)


def stop(client: Any, job: Job, wait: bool = False) -> Job:
    """Ask the job to stop: its trainings save a checkpoint and leave. `wait` until they have.

    Raises:
        SpecError: it has not ended by the time that Ray ends it by force.
    """
    client.stop_job(job.submission_id)
    return wait_for_end(client, job, STOP_SECONDS + LOST_SECONDS) if wait else again(client, job)


def wait_for_end(client: Any, job: Job, seconds: float) -> Job:
    """The job once it has ended.

    Raises:
        SpecError: it runs still after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while (now := again(client, job)).active:
        if time.monotonic() > deadline:
            raise SpecError(f"{job.submission_id}: is {now.status.lower()} after {seconds:g} s")
        time.sleep(POLL_SECONDS)
    return now
