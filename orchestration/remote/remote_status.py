"""Status of a study's runs on a cluster, read there: the ledger is on the cluster's storage."""

from __future__ import annotations

import json
import logging
import shlex
import tempfile
import uuid
from pathlib import Path
from typing import Any

from cola.errors import ClusterError, SpecError, one_line
from cola.records import SweepFile
from cola.study import StudySpec
from orchestration.planning.catalog import read_study, shipped_studies
from orchestration.remote.jobs import Job, jobs_of, refreshed, wait_for_end
from orchestration.remote.packaging import (
    BUILD_SECONDS,
    STUDY_FILE,
    JobEnvironment,
    check_study,
    runtime_environment,
)

log = logging.getLogger(__name__)

READ_SECONDS = 120.0  # for the job that reads the status; a chosen value


def study_and_job(client: Any, name: str, settings: list[str]) -> tuple[str, str, Job | None]:
    """A study's name, its output folder on the cluster and its last job there.

    The folder is the one recorded with the job, or the study's own where the cluster has forgotten
    its jobs.

    Raises:
        SpecError: the study is known neither to the cluster nor as a file or shipped study.
    """
    spec: StudySpec | None = None
    if settings or Path(name).is_file():
        spec = read_study(name, settings)
    study = spec.name if spec is not None else name
    jobs = jobs_of(client, study)
    output = jobs[-1].metadata.get("output") if jobs else None
    if output is None and spec is None and name in shipped_studies():
        spec = read_study(name, settings)
    if output is None:
        if spec is None:
            raise SpecError(
                f"study {name}: the cluster knows no job of it; give its YAML file, which says "
                "where its output is"
            )
        check_study(spec)
        output = spec.output
    return study, output, jobs[-1] if jobs else None


def remote_runs(client: Any, study: str, output: str, *, job: Job | None) -> list[dict[str, Any]]:
    """The runs of a study or the trials of a sweep, read by a short job on the cluster whose record
    is removed.

    It runs in the environment of the study's `job`, which exists while that job is active.

    Raises:
        ClusterError: it could not read them; the message has the last line of its output.
    """
    swept = job is not None and job.metadata.get("kind") == "sweep"
    path = f"{output}/studies/{study}/{STUDY_FILE}"
    if swept:
        path = f"{output}/sweeps/{study}/{SweepFile.SPEC}"
    verbs, key = (["sweep", "status"], "trials") if swept else (["status"], "runs")
    name = f"status-of-{study}-{uuid.uuid4().hex[:12]}"
    pinned = job is not None and job.metadata.get("environment") == "pinned"
    kind: JobEnvironment = "pinned" if pinned else "cluster"
    with tempfile.TemporaryDirectory(prefix="cola-status-") as folder:
        if job is not None and job.active:
            environment = client.get_job_info(job.submission_id).runtime_env
        else:
            environment = runtime_environment(kind, Path(folder))
        client.submit_job(
            entrypoint=shlex.join(["cola", *verbs, path, "--json"]),
            submission_id=name,
            runtime_env=environment,
            metadata={"study": study},
        )
    seconds = READ_SECONDS + (BUILD_SECONDS if kind == "pinned" else 0.0)
    log.debug("%s reads %s", name, path)
    helper = Job(name, 0, "PENDING", "")
    try:
        ended = wait_for_end(client, helper, seconds)
        text = str(client.get_job_logs(name))
    finally:
        remove(client, helper)
    rows = rows_in(text, key)
    if ended.status != "SUCCEEDED" or rows is None:
        lines = [line for line in text.splitlines() if line.strip()] or [ended.message]
        raise ClusterError(
            f"{study}: its {key} cannot be read on the cluster, at {path}: {one_line(lines[-1])}"
        )
    return rows


def remove(client: Any, job: Job) -> None:
    """Stop a job if it is active, and delete its record on the cluster."""
    if refreshed(client, job).active:
        client.stop_job(job.submission_id)
        wait_for_end(client, job, READ_SECONDS)
    client.delete_job(job.submission_id)


def rows_in(text: str, key: str = "runs") -> list[dict[str, Any]] | None:
    """The rows that `cola status --json` printed under the key, among other output; None if there
    are none."""
    for start in (index for index, letter in enumerate(text) if letter == "{"):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, start)
        except ValueError:
            continue
        if isinstance(value, dict) and key in value:
            return list(value[key])
    return None
