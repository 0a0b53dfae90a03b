"""Where a study's runs stand on a cluster, read there: its ledger is on the cluster's storage."""

from __future__ import annotations

import json
import shlex
import tempfile
import uuid
from pathlib import Path
from typing import Any

from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.planning.catalog import load_study, shipped_studies
from orchestration.remote.jobs import Job, again, jobs_of, wait_for_end
from orchestration.remote.packaging import (
    BUILD_SECONDS,
    STUDY_FILE,
    Where,
    check_study,
    runtime_environment,
)

READ_SECONDS = 120.0


def study_and_job(client: Any, name: str, settings: list[str]) -> tuple[str, str, Job | None]:
    """A study's name, its output folder on the cluster and its last job there.

    The folder is what the job noted; where the cluster has forgotten its jobs, the study's own.

    Raises:
        SpecError: neither the cluster nor a file knows the study.
    """
    spec: StudySpec | None = None
    if settings or Path(name).is_file():
        spec = load_study(name, settings)
    study = spec.name if spec is not None else name
    found = jobs_of(client, study)
    noted = found[-1].metadata.get("output") if found else None
    if noted is None and spec is None and name in shipped_studies():
        spec = load_study(name, settings)
    if noted is None:
        if spec is None:
            raise SpecError(
                f"study {name}: the cluster knows no job of it; give its YAML file, which says "
                "where its output is"
            )
        check_study(spec)
        noted = spec.output
    return study, noted, found[-1] if found else None


def remote_runs(client: Any, study: str, output: str, job: Job | None) -> list[dict[str, Any]]:
    """The rows of `cola status`, read by a short job on the cluster whose record is removed.

    It runs in the environment of the study's `job`, which is there already while that is active.

    Raises:
        SpecError: the job could not read them, with what it said.
    """
    path = f"{output}/studies/{study}/{STUDY_FILE}"
    name = f"status-of-{study}-{uuid.uuid4().hex[:12]}"
    pinned = job is not None and job.metadata.get("environment") == "pinned"
    where: Where = "pinned" if pinned else "cluster"
    with tempfile.TemporaryDirectory(prefix="cola-status-") as folder:
        if job is not None and job.active:
            environment = client.get_job_info(job.submission_id).runtime_env
        else:
            environment = runtime_environment(where, Path(folder))
        client.submit_job(
            entrypoint=shlex.join(["cola", "status", path, "--json"]),
            submission_id=name,
            runtime_env=environment,
            metadata={"study": study},
        )
    seconds = READ_SECONDS + (BUILD_SECONDS if where == "pinned" else 0.0)
    helper = Job(name, 0, "PENDING", "")
    try:
        ended = wait_for_end(client, helper, seconds)
        text = str(client.get_job_logs(name))
    finally:
        remove(client, helper)
    found = rows_in(text)
    if ended.status != "SUCCEEDED" or found is None:
        lines = [line for line in text.splitlines() if line.strip()] or [ended.message]
        raise SpecError(f"study {study}: its runs cannot be read on the cluster: {lines[-1]}")
    return found


def remove(client: Any, job: Job) -> None:
    """Leave nothing of a job on the cluster, ended or not."""
    if again(client, job).active:
        client.stop_job(job.submission_id)
        wait_for_end(client, job, READ_SECONDS)
    client.delete_job(job.submission_id)


def rows_in(text: str) -> list[dict[str, Any]] | None:
    """The rows that `cola status --json` printed, whatever else was written round them."""
    for place in (index for index, letter in enumerate(text) if letter == "{"):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, place)
        except ValueError:
            continue
        if isinstance(value, dict) and "runs" in value:
            return list(value["runs"])
    return None
