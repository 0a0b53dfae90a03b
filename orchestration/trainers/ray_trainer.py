"""One training run as one Ray Train run, started from the driver."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cola import process_environment
from cola.errors import RunError
from cola.logs import set_up_logging
from orchestration.checkpoint.store import store_address
from orchestration.compat.ray import raised_by_worker, torch_config, trainer_class
from orchestration.state.event_log import Event, EventLog
from orchestration.step.micro_batch import GroupShortageError, Halvings
from orchestration.trainers.worker_logs import cause_of, raised_in, worker_logs
from orchestration.worker.assignment import Assignment
from orchestration.worker.worker import train_in_process, train_worker

log = logging.getLogger(__name__)


class ControllerDiedError(RunError):
    """The process that supervises the run's workers died; a retry resumes from a checkpoint."""


class TrainingError(RunError):
    """The workers failed more often than they may, or Ray could not start them."""


def fit_run(assignment: Assignment) -> None:
    """Run one assignment through Ray Train; returns when its workers have left.

    A driver calls it in one thread for each run, a process that trains runs itself for its own.

    Raises:
        ControllerDiedError: Ray Train's controller died.
        TrainingError: the workers failed more often than `max_failures`, or could not start.
            Either message is one line: which ranks failed of what, and where their logs are.
    """
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError, WorkerGroupError

    folder = Path(assignment.run_folder)
    try:
        with process_environment.single_worker() if assignment.in_process else nullcontext():
            trainer_of(assignment).fit()
    except WorkerGroupError as error:
        cause, ranks = cause_of(error.worker_failures), error.worker_failures.keys()
        raise TrainingError(f"{cause}; logs: {worker_logs(folder, ranks)}") from error
    except TrainingFailedError as error:
        raise TrainingError(f"{raised_in(error)}; logs: {worker_logs(folder)}") from error
    except RayActorError as error:
        raise ControllerDiedError(
            f"the run's controller died: {raised_in(error)}; logs: {worker_logs(folder)}"
        ) from error


def halving_of(raised: Mapping[int, BaseException]) -> dict[str, Any]:
    """The event's values where these ranks raised that smaller passes are tried."""
    found = {
        rank: each.shortage
        for rank, each in sorted(raised.items())
        if isinstance(each, GroupShortageError)
    }
    smallest = min(found.values(), key=lambda shortage: shortage.smaller)
    return {
        "reason": str(smallest),
        "ranks": list(found),
        "micro_batch_sequences": smallest.smaller,
    }


def trainer_of(assignment: Assignment) -> Any:
    """A Ray Train trainer for the assignment (`TorchTrainer`)."""
    import ray.train

    class FaultRecorder(ray.train.UserCallback):
        """Writes into the study's event log why workers failed, or start again with smaller passes;
        runs in the controller."""

        def __init__(self) -> None:
            self._halvings = Halvings()

        def after_exception(self, run_context: Any, worker_exceptions: Any) -> None:
            set_up_logging()  # of the controller's process
            failures = dict(worker_exceptions)
            raised = {rank: raised_by_worker(each) for rank, each in failures.items()}
            if self._halvings.has(raised.values()):
                event, values = Event.OUT_OF_MEMORY, halving_of(raised)
            else:
                logs = worker_logs(Path(assignment.run_folder), failures.keys())
                event, values = Event.WORKERS_FAILED, {"reason": cause_of(failures), "logs": logs}
            # The study's driver reads it here, and prints it at once.
            events = EventLog(Path(assignment.study_folder))
            events.write(event, assignment.name, **values, attempt=assignment.attempt)
            log.warning("%s: %s: %s", assignment.name, event, values["reason"])

    if not isinstance(assignment.ray_workers(), int):
        process_environment.elastic_trainer()
    needs = assignment.resources
    gpu = needs.gpus_per_worker > 0
    per_worker = {"CPU": needs.cpus_per_worker}
    if gpu:
        per_worker["GPU"] = needs.gpus_per_worker
    return trainer_class(Halvings().has)(
        train_in_process if assignment.in_process else train_worker,
        train_loop_config={"assignment": assignment.model_dump_json()},
        torch_config=torch_config("nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=assignment.ray_workers(),
            use_gpu=gpu,
            resources_per_worker=per_worker,
            label_selector=needs.labels or None,
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt-{assignment.attempt}",
            storage_path=store_address(assignment.checkpoint.storage, Path(assignment.run_folder)),
            failure_config=ray.train.FailureConfig(max_failures=needs.max_failures),
            # What is kept is decided in `orchestration.checkpoint.retention`, over all attempts.
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=None),
            callbacks=[FaultRecorder()],
        ),
    )
