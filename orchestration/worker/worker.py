"""The function that each Ray Train worker process runs: train, finish, write the outcome."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cola import process_environment
from cola.data import PreparedData, open_prepared
from cola.files import write_atomically
from cola.logs import set_up_logging
from cola.spec.resources import ResourcesSpec
from orchestration.checkpoint.manifest import Cursor, newest_valid, seal
from orchestration.checkpoint.retention import RetentionPolicy
from orchestration.checkpoint.store import CheckpointStore, open_store
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import RunFolder
from orchestration.state.scratch import remove_abandoned, scratch_folder
from orchestration.worker.assignment import Assignment
from orchestration.worker.environment import describe_environment

if TYPE_CHECKING:
    from orchestration.training.checkpoint_fetch import CheckpointFetcher
    from orchestration.training.checkpoint_writer import CheckpointWriter
    from orchestration.training.distributed import WorkerRank
    from orchestration.training.train_loop import LoopSettings

log = logging.getLogger(__name__)


def train_in_process(config: dict[str, Any]) -> None:
    """`train_worker` in a process that trains other runs before and afterwards."""
    import torch
    from torch import distributed

    from orchestration.training.deepspeed_engine import close_process_group

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    # The store lies in this process's memory: no other process has to find it.
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # of the run before
    try:
        train_worker(config)
    finally:
        close_process_group()
        torch.cuda.empty_cache()  # for other processes on the same GPU; nothing without one
        if Assignment.model_validate_json(config["assignment"]).resources.compiles:
            torch.compiler.reset()  # it counts compilations over all runs, and stops at a limit


def train_worker(config: dict[str, Any]) -> None:
    """Train this worker's part of the run that `config["assignment"]` describes (JSON).

    Raises:
        PreemptedError: a node of the run is about to be taken away; a checkpoint is saved.
        GroupShortageError: passes do not fit the device; the workers that start again make smaller
            ones.
        RunError: a checkpoint belongs to another run, or a pass of one sequence or the optimiser
            does not fit.
    """
    import ray.train

    from orchestration.training.checkpoint_fetch import CheckpointFetcher
    from orchestration.training.deepspeed_engine import DeepSpeedEngine, import_deepspeed
    from orchestration.training.distributed import WorkerRank
    from orchestration.training.train_loop import train
    from orchestration.worker.device_memory import shortage_recorder, starting_micro_batch
    from orchestration.worker.finish import finish
    from orchestration.worker.heartbeat import Heartbeat, WorkerIdentity

    set_up_logging()
    import_deepspeed()
    assignment = Assignment.model_validate_json(config["assignment"])
    context, resources = ray.train.get_context(), assignment.resources
    worker = WorkerRank(context.get_world_rank(), context.get_world_size())
    log.info("%s: worker %d of %d", assignment.name, worker.rank, worker.world_size)
    remove_abandoned()
    data = open_prepared(Path(assignment.data_folder))
    folder = Path(assignment.run_folder)
    store = open_store(assignment.checkpoint.storage, folder)
    fetcher = CheckpointFetcher(store, worker, context.get_node_rank())
    resume, damaged = resume_point(assignment, worker, fetcher)
    fence = AttemptFence(folder, assignment.attempt)
    journal = JournalWriter(RunFolder(folder).journal, fence) if worker.rank == 0 else None
    micro_batch = starting_micro_batch(assignment, worker)
    if journal is not None:
        record_start(
            assignment,
            worker,
            journal,
            resume=resume,
            damaged=damaged,
            micro_batch=micro_batch,
            fence=fence,
        )
    node_id = ray.get_runtime_context().get_node_id()
    identity = WorkerIdentity(assignment.attempt, worker.rank, node_id)
    heartbeat = Heartbeat(folder, identity, resume[1].step if resume else 0, fence=fence)
    writer = checkpoint_writer(
        assignment,
        worker,
        store,
        journal=journal,
        resumed_from=fetcher.name_of(resume[0]) if resume is not None else None,
        fence=fence,
    )
    state = train(
        assignment.run,
        data.train,
        DeepSpeedEngine,
        settings=loop_settings(resources, micro_batch),
        worker=worker,
        hooks=[
            lambda state: fetcher.remove_copies(),  # by the first step all workers have loaded
            heartbeat,
            *worker_hooks(assignment, data, journal, writer=writer, fence=fence),
        ],
        resume=resume,
        on_shortage=shortage_recorder(assignment, worker, journal, fence=fence),
    )
    fetcher.remove_copies()
    writer.close()
    finish(assignment, state, data, journal=journal, heartbeat=heartbeat, fence=fence)


def loop_settings(resources: ResourcesSpec, micro_batch: int | None) -> LoopSettings:
    """How this worker executes a step; its process is set up for compiled code where it has any."""
    from orchestration.training.hardware import compiles_here
    from orchestration.training.train_loop import LoopSettings

    if compiled := compiles_here(resources):
        process_environment.compiling_worker()
    return LoopSettings(
        resources.zero_stage,
        micro_batch,
        compile=compiled,
        checkpoints_activations=resources.checkpoints_activations,
    )


def record_start(
    assignment: Assignment,
    worker: WorkerRank,
    journal: JournalWriter,
    *,
    resume: tuple[Path, Cursor] | None,
    damaged: Sequence[str],
    micro_batch: int | None,
    fence: AttemptFence,
) -> None:
    """Write the environment of this attempt, and its start into the journal.

    `damaged` names newer checkpoints that could not be used; `micro_batch` is recorded where it is
    not the planned one.
    """
    environment = describe_environment(assignment.resources.zero_stage, worker.world_size)
    path = RunFolder(Path(assignment.run_folder)).environment
    if not fence.superseded(recheck=True):
        try:
            write_atomically(path, environment)
        except OSError as error:  # training does not depend on it
            log.warning("%s: is not written: %s", path, error)
    values: dict[str, Any] = {
        "event": "start",
        "attempt": assignment.attempt,
        "pid": os.getpid(),
        "workers": worker.world_size,
    }
    if resume is not None:
        values["from"] = str(resume[0])
    if damaged:
        values["damaged"] = list(damaged)
    if micro_batch != assignment.resources.micro_batch_sequences:
        values["micro_batch_sequences"] = micro_batch
    journal.write("event", resume[1].step if resume else 0, time.time(), values=values)


def worker_hooks(
    assignment: Assignment,
    data: PreparedData,
    journal: JournalWriter | None,
    *,
    writer: CheckpointWriter,
    fence: AttemptFence,
) -> list[Any]:
    """The run's hooks, in the order in which they act after a step."""
    from orchestration.training import hooks
    from orchestration.worker.preemption import LeaveBeforePreemption

    run, every = assignment.run, assignment.log_every_steps
    leave = LeaveBeforePreemption(preemption_notice, writer.save_now, journal)
    folders = {step: Path(folder) for step, folder in assignment.publishes.items()}
    return [
        hooks.StopOnDivergence(),
        hooks.LogTraining(run, journal, every),
        hooks.StopOnCollapse(every),
        hooks.Evaluate(run, data, journal),
        hooks.PublishPrefix(folders, publish_prefix),
        hooks.StopOnRequest(Path(assignment.run_folder), assignment.until, fence=fence),
        *([leave] if assignment.preemptible else []),
        hooks.Checkpoint(
            assignment.checkpoint.every_seconds, writer, checkpoint_points(assignment)
        ),
    ]


def preemption_notice() -> str | None:
    """Which of the run's nodes are about to be taken away, or None (collective)."""
    import ray.train

    info = ray.train.get_preemption_info()
    if info is None:
        return None
    nodes = ", ".join(node[:12] for node in info.preempted_node_ids)
    return f"node {nodes} of rank {info.preempted_ranks} is about to be taken away"


def checkpoint_points(assignment: Assignment) -> frozenset[int]:
    """Evaluation steps after which a checkpoint is saved: none unless retention keeps such ones."""
    from orchestration.training.validation import evaluation_steps

    kept = assignment.checkpoint
    if not (kept.keep_best or kept.keep_points):
        return frozenset()
    return frozenset(evaluation_steps(assignment.run))


def checkpoint_writer(
    assignment: Assignment,
    worker: WorkerRank,
    store: CheckpointStore,
    *,
    journal: JournalWriter | None,
    resumed_from: str | None,
    fence: AttemptFence,
) -> CheckpointWriter:
    """The writer of this attempt's checkpoints; it reports the stored ones to Ray Train."""
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
        worker,
        policy=RetentionPolicy(kept.keep, kept.keep_best, kept.keep_points),
        upload=kept.upload,
        journal=journal,
        on_stored=report,
        points=checkpoint_points(assignment),
        resumed_from=resumed_from,
        fence=fence,
    )


def publish_prefix(state: Any, folder: Path) -> None:
    """Write this worker's part of a prefix' state into `folder`, where other runs look for it.

    The state counts once the manifests of all workers are there, so each is written last.

    Raises:
        OSError: the folder cannot be written.
    """
    with scratch_folder("prefix") as part:
        state.save(part)
        shutil.copytree(part, folder, dirs_exist_ok=True)
        manifest = seal(part, state.cursor(), state.worker.rank)
        write_atomically(folder / manifest.name, manifest.read_text())
    log.info("published the state of step %d in %s", state.step, folder)


def resume_point(
    assignment: Assignment, worker: WorkerRank, fetcher: CheckpointFetcher
) -> tuple[tuple[Path, Cursor] | None, list[str]]:
    """The newest valid checkpoint of any attempt, or published prefix; None: train from the start.

    With the names of newer ones that cannot be used. Rank 0, which alone has these, chooses for all
    workers; each gets a folder that it can read.
    """
    chosen = None
    damaged: list[Path] = []
    if worker.rank == 0:
        folders = [*fetcher.folders(), *map(Path, assignment.resumes_from)]
        chosen = newest_valid(folders, fetcher.fetch, damaged=damaged.append)
    names = [fetcher.name_of(folder) or str(folder) for folder in damaged]
    return fetcher.share(chosen), names
