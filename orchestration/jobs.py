"""Studies on a remote cluster, as Ray Jobs: submit, follow, stop, go on.

A study is one job at a time, found again by its name: a second submission attaches to the running
one. What is finished is known to the study's ledger on its storage, so a job that is submitted
again goes on. Tokens are Ray's own (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token).
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cola.spec import SpecError, StudySpec

STUDY_FILE = "study.yaml"
PREFIX = "cola"
# A stop is a request: running trainings save a checkpoint first.
STOP_SECONDS = 600
POLL_SECONDS = 1.0
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """One attempt at a study on the cluster."""

    submission_id: str
    attempt: int
    status: str
    message: str

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.status not in ENDED


def client_of(address: str) -> Any:
    """Ray's job client.

    Raises:
        SpecError: an address that is none, a remote one without a token, or one that does not
            answer.
    """
    check_address(address)
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token() else "disabled")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        client.list_jobs()  # the first request that a wrong token shows at
    except AuthenticationError:
        raise SpecError(
            f"--address {address}: refuses this token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH "
            "to the cluster's own"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError(f"--address {address}: does not take jobs ({reason})") from None
    return client


def check_address(address: str) -> None:
    """Only loopback is spoken to without a token.

    Raises:
        SpecError: see `client_of`.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(f"--address {address}: write it as http(s)://HOST:PORT (Ray's dashboard)")
    if not is_loopback(parts.hostname) and not has_token():
        raise SpecError(
            f"--address {address}: a remote cluster is only spoken to with a token; set "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or make one with `ray get-auth-token "
            "--generate`"
        )


def is_loopback(host: str) -> bool:
    """localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def has_token() -> bool:
    """Whether Ray will find an authentication token."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(given) or (Path.home() / ".ray" / "auth_token").is_file()


def jobs_of(client: Any, study: str) -> list[Job]:
    """All attempts at a study, in order."""
    found = []
    for details in client.list_jobs():
        name = details.submission_id or ""
        stem, _, number = name.rpartition("-")
        if stem == f"{PREFIX}-{study}" and number.isdigit():
            message = details.message or ""
            found.append(Job(name, int(number), str(details.status.value), message))
    return sorted(found, key=lambda job: job.attempt)


def again(client: Any, job: Job) -> Job:
    """The job as it stands now."""
    details = client.get_job_info(job.submission_id)
    return replace(job, status=str(details.status.value), message=details.message or "")


def submit(client: Any, study: StudySpec) -> tuple[Job, bool]:
    """Submit the study, or find the job that carries it out already (then True).

    Raises:
        SpecError: a study whose output or corpus is not at an absolute path: the cluster must find
            it again whatever machine a job lands on.
    """
    check_paths(study)
    before = jobs_of(client, study.name)
    if before and before[-1].active:
        return before[-1], True
    attempt = before[-1].attempt + 1 if before else 1
    name = f"{PREFIX}-{study.name}-{attempt}"
    with tempfile.TemporaryDirectory(prefix="cola-submit-") as folder:
        (Path(folder) / STUDY_FILE).write_text(study.to_yaml(), encoding="utf-8")
        client.submit_job(
            entrypoint=f"cola run {STUDY_FILE} --address auto",
            submission_id=name,
            runtime_env={
                "working_dir": folder,
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "COLUMNS": "160"},
            },
            metadata={"study": study.name},
        )
    return jobs_of(client, study.name)[-1], False


def check_paths(study: StudySpec) -> None:
    """What the cluster reads and writes must be at absolute paths, on storage that all nodes see.

    Raises:
        SpecError: naming the key.
    """
    paths = {"output": study.output}
    corpus = study.data.corpus
    for place, path in enumerate(getattr(corpus, "paths", [])):
        paths[f"data.corpus.paths.{place}"] = str(path)
    for key, value in paths.items():
        if not Path(value).is_absolute():
            raise SpecError(
                f"{key}={value}: a submitted study needs an absolute path, on storage that every "
                "node of the cluster sees"
            )


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
    """The job's output as it comes, until it has ended."""
    told = 0
    while True:
        ended = not again(client, job).active
        text = client.get_job_logs(job.submission_id)
        if len(text) > told:
            yield text[told:]
            told = len(text)
        if ended:
            return
        time.sleep(POLL_SECONDS)


def stop(client: Any, job: Job) -> None:
    """Ask the job to stop: its trainings save a checkpoint and leave."""
    client.stop_job(job.submission_id)
