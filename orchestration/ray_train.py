"""One training run as one Ray Train run: what a worker does, and how the driver starts it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cola.data import PreparedData, open_prepared
from cola.spec import RunSpec
from orchestration.checkpoint import CHECKPOINTS, Cursor, newest_valid, seal
from orchestration.environment import describe_environment
from orchestration.journal import JournalWriter
from orchestration.ledger import write_atomically

OUTCOME_FILE = "outcome.json"


class Assignment(BaseModel):
    """All that a worker needs to know to carry out its part of a run (absolute paths only)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunSpec
    run_folder: str
    data_folder: str
    attempt: int
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    zero_stage: int
    micro_batch_sequences: int | None
    compile: bool
    max_failures: int
    checkpoint_every_seconds: float
    checkpoint_keep: int
    log_every_steps: int
    labels: dict[str, str] = {}  # of the nodes that workers may be on
    publishes: dict[int, str] = {}  # step -> folder for the state that other runs go on from
    takes: list[str] = []  # folders of such states that this run can go on from


class RunOutcome(BaseModel):
    """How the training of a run ended, written by rank 0 (absent after a crash)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int
    state: str
    reason: str | None
    step: int
    order_digests: dict[int, str]


def fit_run(assignment: Assignment) -> None:
    """Run one assignment through Ray Train; returns when it ended, raises when it failed.

    Blocks: the driver calls it in a thread for each run that goes on side by side.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = assignment.gpus_per_worker > 0
    resources = {"CPU": assignment.cpus_per_worker}
    if gpu:
        resources["GPU"] = assignment.gpus_per_worker
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"assignment": assignment.model_dump_json()},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=assignment.workers,
            use_gpu=gpu,
            resources_per_worker=resources,
            label_selector=assignment.labels or None,
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt-{assignment.attempt}",
            storage_path=str(Path(assignment.run_folder) / CHECKPOINTS),
            failure_config=ray.train.FailureConfig(max_failures=assignment.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=assignment.checkpoint_keep),
        ),
    )
    trainer.fit()


def train_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs: the loop, with DeepSpeed and this run's hooks."""
    import ray.train

    from orchestration.deepspeed_engine import DeepSpeedEngine, import_deepspeed
    from orchestration.train_loop import LoopSettings, Place, train

    import_deepspeed()
    assignment = Assignment.model_validate_json(config["assignment"])
    context = ray.train.get_context()
    place = Place(context.get_world_rank(), context.get_world_size())
    data = open_prepared(Path(assignment.data_folder))
    folder = Path(assignment.run_folder)
    resume = resume_point(assignment, place)
    journal = JournalWriter(folder / "journal.jsonl") if place.rank == 0 else None
    if journal is not None:
        environment = describe_environment(assignment.zero_stage, assignment.workers)
        write_atomically(folder / "environment.json", environment)
        values = {"event": "start", "attempt": assignment.attempt, "pid": os.getpid()}
        if resume is not None:
            values["from"] = str(resume[0])
        journal.write("event", resume[1].step if resume else 0, time.time(), values)
    state = train(
        assignment.run,
        data.train,
        DeepSpeedEngine,
        LoopSettings(assignment.zero_stage, assignment.micro_batch_sequences, assignment.compile),
        place,
        worker_hooks(assignment, data, journal),
        resume,
    )
    finish(assignment, state, data, journal)


def worker_hooks(
    assignment: Assignment, data: PreparedData, journal: JournalWriter | None
) -> list[Any]:
    """The run's hooks, in the order in which they act after a step."""
    from orchestration import hooks

    run = assignment.run
    return [
        hooks.StopOnDivergence(),
        hooks.LogTraining(run, journal, assignment.log_every_steps),
        hooks.StopOnCollapse(assignment.log_every_steps),
        hooks.Evaluate(run, data, journal),
        hooks.Publish({step: Path(path) for step, path in assignment.publishes.items()}, publish),
        hooks.StopOnRequest(Path(assignment.run_folder)),
        hooks.Checkpoint(assignment.checkpoint_every_seconds, report_checkpoint),
    ]


def report_checkpoint(state: Any) -> None:
    """Every worker hands its part to Ray Train, which stores the parts as one checkpoint."""
    import ray.train

    with tempfile.TemporaryDirectory(prefix="cola-checkpoint-") as temporary:
        folder = Path(temporary)
        state.save(folder)
        seal(folder, state.cursor(), state.place.rank)
        ray.train.report(
            {"step": state.step},
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"step-{state.step:09d}",
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


def resume_point(assignment: Assignment, place: Any) -> tuple[Path, Cursor] | None:
    """The newest whole checkpoint that fits, of any attempt or of a run with the same beginning.

    Rank 0 chooses for all.
    """
    import torch.distributed as dist

    chosen: list[Any] = [None]
    if place.rank == 0:
        own = (Path(assignment.run_folder) / CHECKPOINTS).glob("attempt-*/step-*")
        found = [*own, *map(Path, assignment.takes)]
        chosen = [newest_valid(found, place.world_size, assignment.zero_stage)]
    if place.world_size > 1:
        dist.broadcast_object_list(chosen, src=0)
    result: tuple[Path, Cursor] | None = chosen[0]
    return result


def finish(
    assignment: Assignment, state: Any, data: PreparedData, journal: JournalWriter | None
) -> None:
    """Export the finished model and its samples, then say how the run ended."""
    from orchestration.evaluate import diagnostics, text_samples
    from orchestration.hooks import order_digests
    from orchestration.train_loop import carried_over

    folder = Path(assignment.run_folder)
    finished = state.stop == "finished"
    with state.averaged():
        weights = state.engine.full_state_dict() if finished else None
    if journal is None:
        return
    if weights is not None:
        model = carried_over(state.family, state.run, state, weights)
        state.family.save(model, folder / "model")
        measured = diagnostics(state.family, model, state.run, data)
        if measured:
            journal.write("diagnostic", state.step, time.time(), measured)
        samples = text_samples(state.family, model, state.run, data, state.step)
        lines = "".join(sample.model_dump_json() + "\n" for sample in samples)
        write_atomically(folder / "samples.jsonl", lines)
    journal.write(
        "event", state.step, time.time(), {"event": state.stop, "attempt": assignment.attempt}
    )
    journal.close()
    outcome = RunOutcome(
        attempt=assignment.attempt,
        state=state.stop,
        reason=state.stop_reason,
        step=state.step,
        order_digests=order_digests(state.run, state.step, len(data.train)),
    )
    write_atomically(folder / OUTCOME_FILE, outcome.model_dump_json(indent=1))
