"""One training run as one Ray Train run, started from the driver."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from cola.errors import RunError
from orchestration.checkpoint.store import store_address
from orchestration.state.event_log import EventLog
from orchestration.worker.assignment import Assignment
from orchestration.worker.worker import train_in_process, train_worker


class ControllerDiedError(RunError):
    """The process that looks after the run's workers is gone; starting the run again goes on."""


class TrainingError(RunError):
    """The workers failed more often than they may, or Ray could not start them."""


def fit_run(assignment: Assignment) -> None:
    """Run one assignment through Ray Train; returns when it ended.

    Blocks: the driver calls it in a thread for each run that goes on side by side.

    Raises:
        ControllerDiedError, TrainingError: see there; the message is one line.
    """
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    try:
        with alone() if assignment.in_process else nullcontext():
            trainer_of(assignment).fit()
    except WorkerGroupError as error:
        raise TrainingError(cause_of(error.worker_failures)) from error
    except TrainingFailedError as error:
        raise TrainingError(last_line(error)) from error
    except RayActorError as error:
        raise ControllerDiedError(f"the run's controller died: {last_line(error)}") from error


@contextmanager
def alone() -> Iterator[None]:
    """What tells Ray Train's local mode to make a process group of this process alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), "0")
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1")
    values = {**ranks, **sizes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)


def cause_of(failures: dict[int, Exception]) -> str:
    """Which workers failed of what; equal causes are told once, at most two."""
    ranks: dict[str, list[int]] = {}
    for rank, failure in sorted(failures.items()):
        ranks.setdefault(last_line(failure), []).append(rank)
    told = [f"rank {', '.join(map(str, each))}: {cause}" for cause, each in ranks.items()]
    return "; ".join(told[:2])


def last_line(error: BaseException) -> str:
    """What an error says in its last line (of a traceback in a message, what was raised)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.partition(". ")[0][:300] if len(last) > 160 else last


def trainer_of(assignment: Assignment) -> Any:
    """The Ray Train run of an assignment."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.callback import UserCallback

    class FaultRecorder(UserCallback):
        """Writes why workers failed into the study's event log, from the controller."""

        def after_exception(self, run_context: Any, worker_exceptions: Any) -> None:
            log = EventLog(Path(assignment.study_folder))
            cause = cause_of(dict(worker_exceptions))
            log.write("workers failed", assignment.name, cause, attempt=assignment.attempt)

    if not isinstance(assignment.ray_workers(), int):
        # Ray looks at the cluster every 20 s: until then it may ask for more than is left of it.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    gpu = assignment.gpus_per_worker > 0
    resources = {"CPU": assignment.cpus_per_worker}
    if gpu:
        resources["GPU"] = assignment.gpus_per_worker
    return TorchTrainer(
        train_in_process if assignment.in_process else train_worker,
        train_loop_config={"assignment": assignment.model_dump_json()},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=assignment.ray_workers(),
            use_gpu=gpu,
            resources_per_worker=resources,
            label_selector=assignment.labels or None,
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt-{assignment.attempt}",
            storage_path=store_address(assignment.checkpoint.storage, Path(assignment.run_folder)),
            failure_config=ray.train.FailureConfig(max_failures=assignment.max_failures),
            # What is kept is decided in `orchestration.checkpoint.retention`, over all attempts.
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=None),
            callbacks=[FaultRecorder()],
        ),
    )
