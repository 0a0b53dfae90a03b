"""One attempt at a planned run: its files before the workers start, and how it ended."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from cola.errors import ColaError, StorageError, one_line
from cola.files import is_temporary, read_record, write_atomically
from cola.records import NO_LIKELIHOOD, Tag
from cola.study import StudySpec
from orchestration.checkpoint.store import with_absolute_storage
from orchestration.planning.plan import PlannedRun
from orchestration.planning.shared_prefixes import PrefixPlan
from orchestration.state.heartbeat import forget_beats
from orchestration.state.last_validation import last_validation, run_nll_kind
from orchestration.state.ledger import Entry, Ledger, State
from orchestration.state.paths import RunFolder, output_root
from orchestration.state.run_model import set_aside_damaged
from orchestration.tracking.mirror import DRIVER_DIED, Mirror, state_left
from orchestration.trainers.worker_logs import worker_logs
from orchestration.worker.assignment import Assignment, RunOutcome

log = logging.getLogger(__name__)

MAKE_ROOM = "make room, or check its permissions; the same command resumes the run"
ABANDONED_SECONDS = 600.0  # chosen: a file is written within milliseconds, on a slow disk seconds


def open_attempt(run: PlannedRun, ledger: Ledger, data_folder: Path) -> Entry:
    """The ledger's entry of a new attempt, whose lease this driver has, with its folder ready.

    Raises:
        LeaseHeldError: another driver runs it.
        StorageError: the run's folder cannot be written.
    """
    folder = ledger.run_folder(run.key)
    entry = ledger.acquire(run.key)
    try:
        set_aside_damaged(folder)
        write_atomically(RunFolder(folder).spec, run.spec.model_dump_json(indent=1))
        RunFolder(folder).write_data(data_folder)
        RunFolder(folder).stop.unlink(missing_ok=True)
        RunFolder(folder).outcome.unlink(missing_ok=True)
        RunFolder(folder).fetched.unlink(missing_ok=True)
        forget_beats(folder)
        remove_temporary_files(folder)
    except OSError as error:
        problem = StorageError(f"{folder}: cannot be written ({one_line(error)}); {MAKE_ROOM}")
        with suppress(StorageError):
            ledger.close(run.key, "failed", str(problem))
        raise problem from None
    log.debug("%s: attempt %d opened in %s", run.name, len(entry.attempts), folder)
    return entry


def assignment_of(
    run: PlannedRun,
    study: StudySpec,
    events_folder: Path,
    *,
    data_folder: Path,
    attempt: int,
    prefixes: PrefixPlan,
    preemptible: bool,
    in_process: bool = False,
    until: int | None = None,
) -> Assignment:
    """What the run's workers need to know.

    `events_folder` holds the event log that faults go to. With `until` they save a checkpoint and
    leave after that step.
    """
    root = output_root(study)
    return Assignment(
        run=run.spec,
        name=run.name,
        run_folder=str(Ledger(root).run_folder(run.key)),
        study_folder=str(events_folder),
        data_folder=str(data_folder.resolve()),
        attempt=attempt,
        resources=run.resources.model_copy(
            update={"micro_batch_sequences": run.micro_batch_sequences}
        ),
        fit_micro_batch=run.resources.micro_batch_sequences is None,
        preemptible=preemptible,
        in_process=in_process,
        until=until,
        checkpoint=with_absolute_storage(study.checkpoint),
        log_every_steps=study.tracking.log_every_steps,
        publishes={prefix.step: str(prefix.folder(root)) for prefix in prefixes.publishes},
        resumes_from=[str(prefix.folder(root)) for prefix, _ in prefixes.resumes_from],
    )


def outcome_of(
    run_folder: Path, error: BaseException | None, *, attempt: int
) -> tuple[State, str | None]:
    """How the attempt ended, and why; `error` is what `fit_run` raised.

    An outcome that another attempt wrote counts for nothing.
    """
    path = RunFolder(run_folder).outcome
    problem = "not written, though no worker failed"
    outcome: RunOutcome | None = None
    try:
        outcome = _outcome(path)
    except StorageError as damaged:
        problem = str(damaged).removeprefix(f"{path}: ")
    if outcome is not None and outcome.attempt != attempt:
        problem = f"is of attempt {outcome.attempt}, this one is {attempt}"
        outcome = None
    if error is not None:
        # Errors of the project are one line already, with the place of the logs at the end.
        return "failed", str(error) if isinstance(error, ColaError) else one_line(error)
    if outcome is None:
        return "failed", (
            f"{path}: {problem}; the same command resumes the run from its last checkpoint; "
            f"logs: {worker_logs(run_folder)}"
        )
    states: dict[str, State] = {"finished": "finished", "diverged": "diverged"}
    return states.get(outcome.state, "interrupted"), outcome.reason


def read_outcome(run_folder: Path) -> RunOutcome | None:
    """How the run's training ended; None after a crash, which leaves no outcome.

    A damaged file is reported and passes for none.
    """
    try:
        return _outcome(RunFolder(run_folder).outcome)
    except StorageError as error:
        log.warning("%s", error)
        return None


def _outcome(path: Path) -> RunOutcome | None:
    """The outcome in a file; None where there is no file.

    Raises:
        StorageError: it is damaged.
    """
    return read_record(path, RunOutcome, what="an outcome", remedy="remove it")


def remove_temporary_files(folder: Path) -> None:
    """Remove what writers that were killed left of files in a run's folder.

    Only what is old by the storage's own clock: an earlier attempt's workers may still write.
    """
    newest = RunFolder(folder).data.stat().st_mtime
    for path in folder.glob(".*.json*"):
        if is_temporary(path) and newest - path.stat().st_mtime > ABANDONED_SECONDS:
            path.unlink(missing_ok=True)


def opening_tags(study: str, run: PlannedRun) -> dict[str, str]:
    """MLflow's tags of a run that starts."""
    counted = {Tag.BUDGET_UNIT: run.unit, Tag.BUDGET_AMOUNT: repr(run.amount)}
    return {
        **({} if run.unit == "flops" else counted),
        Tag.STUDY: study,
        Tag.FAMILY: run.spec.family,
        Tag.VARIANT: run.variant,
        Tag.RUNG: str(run.rung),
        Tag.BUDGET: repr(run.spec.budget),
        Tag.SEED: str(run.spec.seed),
        Tag.STATUS: "running",
        Tag.RETRY: str(run.retry),
        Tag.NLL_KIND: run_nll_kind(run.spec, {}) or NO_LIKELIHOOD,
        Tag.COMPUTE: run.spec.compute,
        Tag.CORE_PARAMETERS: str(run.core_parameters),
        Tag.EMBEDDING_PARAMETERS: str(run.embedding_parameters),
        Tag.HEAD_PARAMETERS: str(run.head_parameters),
        Tag.TOTAL_PARAMETERS: str(run.total_parameters),
    }


def last_values(folder: Path) -> dict[str, Any]:
    """Metrics of the run's last validation; empty where it has none that can be read."""
    try:
        last = last_validation(folder)
    except StorageError as error:
        log.warning("%s", error)
        return {}
    return {} if last is None else last.values


def closing_tags(run: PlannedRun, ledger: Ledger) -> dict[str, str]:
    """MLflow's tags of a run that ended."""
    entry = ledger.known_entry(run.key)
    outcome = read_outcome(ledger.run_folder(run.key))
    tags = {Tag.ATTEMPTS: str(len(entry.attempts)), Tag.STATUS_REASON: entry.reason or ""}
    kind = run_nll_kind(run.spec, last_values(ledger.run_folder(run.key)))
    tags[Tag.NLL_KIND] = kind or NO_LIKELIHOOD
    if outcome is not None:
        tags[Tag.DATA_ORDER] = json.dumps(outcome.order_digests)
        if outcome.stop_code is not None:
            tags[Tag.STOP_CODE] = outcome.stop_code
    return tags


def mirror_ended(
    run: PlannedRun, ledger: Ledger, mirror: Mirror, *, study: str, tags: dict[str, str]
) -> None:
    """Give MLflow what it lacks of a run that no driver trains now; `tags` are those of its end."""
    entry = ledger.known_entry(run.key)
    if entry.state in ("new", "unreadable"):
        return
    died = {Tag.STATUS_REASON: DRIVER_DIED} if entry.state == "running" else {}
    folder = ledger.run_folder(run.key)
    mirror.follow(run.name, run.spec, folder, tags=opening_tags(study, run))
    mirror.close_run(run.key, state_left(entry), tags | died)
