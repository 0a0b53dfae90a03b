"""What one Ray Train worker process does: it trains its part of a run and writes the outcome."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cola.data import PreparedData, open_prepared
from cola.files import write_atomically
from cola.logs import set_up_logging
from orchestration.checkpoint.manifest import Cursor, newest_valid, seal
from orchestration.checkpoint.retention import RetentionPolicy
from orchestration.checkpoint.store import CheckpointStore, open_store
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import RunFolder
from orchestration.worker.assignment import Assignment
from orchestration.worker.environment import describe_environment

if TYPE_CHECKING:
    from orchestration.training.checkpoint_fetch import LocalCopies
    from orchestration.training.checkpoint_writer import CheckpointWriter
    from orchestration.training.distributed import Place


def train_here(config: dict[str, Any]) -> None:
    """`train_worker` in a process that goes on to other runs."""
    from orchestration.training.deepspeed_engine import close_process_group

    try:
        train_worker(config)
    finally:
        close_process_group()


def train_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs: the loop, with DeepSpeed and this run's hooks."""
    import ray.train

    from orchestration.training.checkpoint_fetch import LocalCopies
    from orchestration.training.deepspeed_engine import DeepSpeedEngine, import_deepspeed
    from orchestration.training.distributed import Place
    from orchestration.training.train_loop import LoopSettings, train
    from orchestration.worker.finish import finish
    from orchestration.worker.heartbeat import Heartbeat, Worker

    set_up_logging()
    import_deepspeed()
    assignment = Assignment.model_validate_json(config["assignment"])
    context = ray.train.get_context()
    place = Place(context.get_world_rank(), context.get_world_size())
    data = open_prepared(Path(assignment.data_folder))
    folder = Path(assignment.run_folder)
    store = open_store(assignment.checkpoint.storage, folder)
    copies = LocalCopies(store, place, context.get_node_rank())
    resume = resume_point(assignment, place, copies)
    fence = AttemptFence(folder, assignment.attempt)
    journal = JournalWriter(RunFolder(folder).journal, fence) if place.rank == 0 else None
    if journal is not None:
        environment = describe_environment(assignment.zero_stage, place.world_size)
        if not fence.superseded(recheck=True):
            write_atomically(RunFolder(folder).environment, environment)
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
    writer = checkpoint_writer(assignment, place, store, journal, good, fence)
    state = train(
        assignment.run,
        data.train,
        DeepSpeedEngine,
        LoopSettings(assignment.zero_stage, assignment.micro_batch_sequences, assignment.compile),
        place,
        [
            lambda state: copies.forget(),
            heart,
            *worker_hooks(assignment, data, journal, writer, fence),
        ],
        resume,
    )
    copies.forget()
    writer.close()
    finish(assignment, state, data, journal, heart, fence)


def worker_hooks(
    assignment: Assignment,
    data: PreparedData,
    journal: JournalWriter | None,
    writer: CheckpointWriter,
    fence: AttemptFence,
) -> list[Any]:
    """The run's hooks, in the order in which they act after a step."""
    from orchestration.training import hooks
    from orchestration.worker.preemption import LeaveBeforePreemption

    run = assignment.run
    leave = LeaveBeforePreemption(preemption_notice, writer.save_now, journal)
    return [
        hooks.StopOnDivergence(),
        hooks.LogTraining(run, journal, assignment.log_every_steps),
        hooks.StopOnCollapse(assignment.log_every_steps),
        hooks.Evaluate(run, data, journal),
        hooks.Publish({step: Path(path) for step, path in assignment.publishes.items()}, publish),
        hooks.StopOnRequest(Path(assignment.run_folder), assignment.until, fence=fence),
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
    from orchestration.training.validation import evaluation_steps

    kept = assignment.checkpoint
    wanted = kept.keep_best or kept.keep_points
    return frozenset(evaluation_steps(assignment.run)) if wanted else frozenset()


def checkpoint_writer(
    assignment: Assignment,
    place: Place,
    store: CheckpointStore,
    journal: JournalWriter | None,
    good: str | None,
    fence: AttemptFence,
) -> CheckpointWriter:
    """What saves this attempt's checkpoints, and tells Ray Train of those that are whole."""
    import ray.train

    from orchestration.training.checkpoint_writer import CheckpointWriter

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
        RetentionPolicy(kept.keep, kept.keep_best, kept.keep_points),
        kept.upload,
        journal,
        report,
        checkpoint_points(assignment),
        good,
        fence=fence,
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
