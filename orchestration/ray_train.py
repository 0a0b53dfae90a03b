"""One training run as one Ray Train run: what a worker does, and how the driver starts it."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from cola.data import PreparedData, open_prepared
from cola.spec.resources import CheckpointSpec
from cola.study import RunSpec
from orchestration.checkpoint import Cursor, newest_valid, seal
from orchestration.checkpoint_store import CheckpointStore, open_store, store_address
from orchestration.environment import describe_environment
from orchestration.events import EventLog
from orchestration.journal import JournalWriter
from orchestration.ledger import write_atomically
from orchestration.retention import Policy

if TYPE_CHECKING:
    from orchestration.checkpoint_writer import CheckpointWriter
    from orchestration.local_copies import LocalCopies
    from orchestration.train_loop import Place

OUTCOME_FILE = "outcome.json"


class Assignment(BaseModel):
    """All that a worker needs to know to carry out its part of a run (absolute paths only)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunSpec
    name: str
    run_folder: str
    study_folder: str
    data_folder: str
    attempt: int
    workers: int
    min_workers: int | None = None  # fewer than `workers`: an elastic run
    cpus_per_worker: float
    gpus_per_worker: float
    zero_stage: int
    micro_batch_sequences: int | None
    compile: bool
    max_failures: int
    checkpoint: CheckpointSpec  # a folder in it is absolute
    log_every_steps: int
    labels: dict[str, str] = {}  # of the nodes that workers may be on
    publishes: dict[int, str] = {}  # step -> folder for the state that other runs go on from
    takes: list[str] = []  # folders of such states that this run can go on from
    preemptible: bool = False  # whether nodes may be taken away with a notice
    in_process: bool = False  # of one worker: it is the process that starts the run
    until: int | None = None  # the step after which they leave, with a checkpoint

    def ray_workers(self) -> int | tuple[int, int]:
        """How many workers Ray Train starts: a number, or a range (an elastic run)."""
        if self.in_process:
            return 0  # Ray Train's local mode
        if self.min_workers is None or self.min_workers == self.workers:
            return self.workers
        return (self.min_workers, self.workers)


class RunOutcome(BaseModel):
    """How the training of a run ended, written by rank 0 (absent after a crash)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int
    state: str
    reason: str | None
    step: int
    order_digests: dict[int, str]


class ControllerDiedError(Exception):
    """The process that looks after the run's workers is gone; starting the run again goes on."""


class TrainingError(Exception):
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
        train_here if assignment.in_process else train_worker,
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
            # What is kept is decided in `orchestration.retention`, over all attempts.
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=None),
            callbacks=[FaultRecorder()],
        ),
    )


def train_here(config: dict[str, Any]) -> None:
    """`train_worker` in a process that goes on to other runs."""
    from orchestration.deepspeed_engine import close_process_group

    try:
        train_worker(config)
    finally:
        close_process_group()


def train_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs: the loop, with DeepSpeed and this run's hooks."""
    import ray.train

    from orchestration.deepspeed_engine import DeepSpeedEngine, import_deepspeed
    from orchestration.finish import finish
    from orchestration.heartbeat import Heartbeat, Worker
    from orchestration.local_copies import LocalCopies
    from orchestration.train_loop import LoopSettings, Place, train

    import_deepspeed()
    assignment = Assignment.model_validate_json(config["assignment"])
    context = ray.train.get_context()
    place = Place(context.get_world_rank(), context.get_world_size())
    data = open_prepared(Path(assignment.data_folder))
    folder = Path(assignment.run_folder)
    store = open_store(assignment.checkpoint.storage, folder)
    copies = LocalCopies(store, place, context.get_node_rank())
    resume = resume_point(assignment, place, copies)
    journal = JournalWriter(folder / "journal.jsonl") if place.rank == 0 else None
    if journal is not None:
        environment = describe_environment(assignment.zero_stage, place.world_size)
        write_atomically(folder / "environment.json", environment)
        values = {
            "event": "start",
            "attempt": assignment.attempt,
            "pid": os.getpid(),
            "workers": place.world_size,
        }
        if resume is not None:
            values["from"] = str(resume[0])
        journal.write("event", resume[1].step if resume else 0, time.time(), values)
    node_id = ray.get_runtime_context().get_node_id()
    heart = Heartbeat(
        folder, Worker(assignment.attempt, place.rank, node_id), resume[1].step if resume else 0
    )
    good = copies.name_of(resume[0]) if resume is not None else None
    writer = checkpoint_writer(assignment, place, store, journal, good)
    state = train(
        assignment.run,
        data.train,
        DeepSpeedEngine,
        LoopSettings(assignment.zero_stage, assignment.micro_batch_sequences, assignment.compile),
        place,
        [lambda state: copies.forget(), heart, *worker_hooks(assignment, data, journal, writer)],
        resume,
    )
    copies.forget()
    writer.close()
    finish(assignment, state, data, journal, heart)


def worker_hooks(
    assignment: Assignment,
    data: PreparedData,
    journal: JournalWriter | None,
    writer: CheckpointWriter,
) -> list[Any]:
    """The run's hooks, in the order in which they act after a step."""
    from orchestration import hooks
    from orchestration.preemption import LeaveBeforePreemption

    run = assignment.run
    leave = LeaveBeforePreemption(preemption_notice, writer.save_now, journal)
    return [
        hooks.StopOnDivergence(),
        hooks.LogTraining(run, journal, assignment.log_every_steps),
        hooks.StopOnCollapse(assignment.log_every_steps),
        hooks.Evaluate(run, data, journal),
        hooks.Publish({step: Path(path) for step, path in assignment.publishes.items()}, publish),
        hooks.StopOnRequest(Path(assignment.run_folder), assignment.until),
        *([leave] if assignment.preemptible else []),
        hooks.Checkpoint(
            assignment.checkpoint.every_seconds, writer, checkpoint_points(assignment)
        ),
    ]


def preemption_notice() -> str | None:
    """Which of the run's nodes are about to be taken away, by Ray's word (collective)."""
    import ray.train

    info = ray.train.get_preemption_info()
    if info is None:
        return None
    nodes = ", ".join(node[:12] for node in info.preempted_node_ids)
    return f"node {nodes} of rank {info.preempted_ranks} is about to be taken away"


def checkpoint_points(assignment: Assignment) -> frozenset[int]:
    """Evaluation steps after which a checkpoint is saved: none unless such ones are kept."""
    from orchestration.validation import evaluation_steps

    kept = assignment.checkpoint
    wanted = kept.keep_best or kept.keep_points
    return frozenset(evaluation_steps(assignment.run)) if wanted else frozenset()


def checkpoint_writer(
    assignment: Assignment,
    place: Place,
    store: CheckpointStore,
    journal: JournalWriter | None,
    good: str | None,
) -> CheckpointWriter:
    """What saves this attempt's checkpoints, and tells Ray Train of those that are whole."""
    import ray.train

    from orchestration.checkpoint_writer import CheckpointWriter

    def report(name: str, step: int) -> None:
        if assignment.in_process:
            return  # local mode keeps no checkpoints: ours are found by their manifests
        storage = ray.train.get_context().get_storage()
        ray.train.report(
            {"step": step},
            checkpoint=ray.train.Checkpoint(store.path(name), storage.storage_filesystem),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    kept = assignment.checkpoint
    return CheckpointWriter(
        store,
        assignment.attempt,
        place,
        Policy(kept.keep, kept.keep_best, kept.keep_points),
        kept.upload,
        journal,
        report,
        checkpoint_points(assignment),
        good,
    )


def publish(state: Any, folder: Path) -> None:
    """Every worker puts its part where other runs look; the manifests, which come last, make it
    whole."""
    with tempfile.TemporaryDirectory(prefix="cola-prefix-") as temporary:
        part = Path(temporary)
        state.save(part)
        shutil.copytree(part, folder, dirs_exist_ok=True)
        manifest = seal(part, state.cursor(), state.place.rank)
        write_atomically(folder / manifest.name, manifest.read_text())


def resume_point(
    assignment: Assignment, place: Place, copies: LocalCopies
) -> tuple[Path, Cursor] | None:
    """The newest whole checkpoint, of any attempt or of a run with the same beginning.

    Rank 0 chooses for all; each worker gets a folder that it can read.
    """
    chosen = None
    if place.rank == 0:
        found = [*copies.folders(), *map(Path, assignment.takes)]
        chosen = newest_valid(found, copies.fetch)
    return copies.shared(chosen)
