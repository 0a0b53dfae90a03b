"""Hooks of the training loop: log, evaluate, checkpoint, publish, stop, each at its cadence."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

import psutil
import torch

from cola.data import OrderFingerprint, PreparedData, sequence_ids
from cola.families.interface.family import WATCHED_POINTS
from cola.records import Metric
from cola.study import RunSpec
from orchestration.checkpoint.manifest import verify
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import RunFolder
from orchestration.training.distributed import (
    broadcast_from_rank_0,
    mean_and_max_over_workers,
)
from orchestration.training.hardware import GPU_LOAD, gpu_load, peak_flops
from orchestration.training.train_loop import StepHook, TrainState, Validation
from orchestration.training.validation import (
    evaluation_steps,
    final_rows,
    summary_of,
    validation_rows,
)

log = logging.getLogger(__name__)


def progress_metrics(state: TrainState) -> dict[str, float]:
    """Tokens, training FLOPs and seconds after `state.step` steps: the axes of curves."""
    run = state.run
    return {
        Metric.TOKENS: float(state.step * run.tokens_per_step),
        Metric.TRAIN_FLOPS_EXECUTED: run.train_flops_at(state.step, "executed"),
        Metric.TRAIN_FLOPS_NOMINAL: run.train_flops_at(state.step, "nominal"),
        Metric.ELAPSED_SECONDS: state.elapsed_seconds,
    }


class LogTraining(StepHook):
    """Logs training metrics at the first step, every `every` steps and at each stage's end.

    These steps do not depend on restarts, so a resumed run logs the same steps.
    """

    def __init__(self, run: RunSpec, journal: JournalWriter | None, every: int) -> None:
        self._journal = journal
        self._peak = peak_flops(run.training.precision) if journal else math.nan
        self._due = stage_ends(run) | {1} | set(range(every, run.steps + 1, every))
        self._last: tuple[int, float, float] | None = None
        psutil.cpu_percent()  # the first call only starts the measurement

    def acts_at(self, step: int) -> bool:
        """See `StepHook.acts_at`."""
        return step in self._due

    def __call__(self, state: TrainState) -> None:
        """Record losses (means over workers), rate, gradient norm, throughput and load."""
        # Throughput is measured after the first step, which includes lazy initialisation.
        now = (state.step, state.elapsed_seconds, state.data_seconds)
        last = self._last = self._last or now
        if state.step not in self._due:
            return
        load = worker_load(now, last)
        if state.micro_batch is not None:
            load["micro_batch_sequences"] = float(state.micro_batch)
        workers = mean_and_max_over_workers(load, state.worker, state.engine.device)
        if self._journal is None:
            return
        self._journal.write(
            "train",
            state.step,
            time.time(),
            values=progress_metrics(state)
            | {Metric.train(name): value for name, value in state.numbers.values.items()}
            | {
                Metric.LEARNING_RATE: state.learning_rate,
                Metric.GRADIENT_NORM: state.numbers.gradient_norm,
            }
            | self._throughput(state, last)
            | load_metrics(workers),
        )
        self._last = now

    def _throughput(self, state: TrainState, last: tuple[int, float, float]) -> dict[str, float]:
        """Tokens per second and MFU since the last logged step; nothing at that step."""
        seconds = state.elapsed_seconds - last[1]
        if state.step == last[0]:
            return {}
        # The end of a stage is always logged, so all of these steps are of this stage.
        rate = (state.step - last[0]) * state.run.tokens_per_step / seconds
        flops = state.stage.train_flops_per_token_executed * rate
        return {
            Metric.TOKENS_PER_SECOND: rate,
            Metric.MFU: flops / (self._peak * state.worker.world_size),
        }


class Evaluate(StepHook):
    """Validates at the run's evaluation steps; the finished model is also tested.

    The test is made here because all workers share it. The weights are those that are exported
    (see `orchestration.worker.export_check`).
    """

    def __init__(self, run: RunSpec, data: PreparedData, journal: JournalWriter | None) -> None:
        self._steps = set(evaluation_steps(run))
        self._data, self._journal = data, journal

    def acts_at(self, step: int) -> bool:
        """See `StepHook.acts_at`."""
        return step in self._steps

    def __call__(self, state: TrainState) -> None:
        """Evaluate this worker's share of the sequences; rank 0 records the result."""
        if state.step not in self._steps:
            return
        with state.averaged():
            rows = validation_rows(state, self._data)
            tested = final_rows(state, self._data) if state.step == state.run.steps else {}
        metrics = summary_of(rows, self._data, state.family)
        if tested:
            metrics |= summary_of(tested, self._data, state.family, split="test")
        nll_by_sequence = {i: row["nll"] for i, row in rows.items() if "nll" in row}
        nll = metrics.get(Metric.NLL)
        state.validation = Validation(state.step, nll, nll_by_sequence, metrics)
        known = "none" if nll is None else f"{nll:.4f} nats/token"
        log.info("step %d: validation NLL %s", state.step, known)
        if self._journal is not None:
            self._journal.write(
                "evaluation", state.step, time.time(), values=progress_metrics(state) | metrics
            )


class Checkpoint(StepHook):
    """Saves every `every_seconds` of wall clock, after the steps `points`, and when interrupted."""

    question = "checkpoint"

    def __init__(
        self,
        every_seconds: float,
        save: Callable[[TrainState], None],
        points: Collection[int] = (),
    ) -> None:
        self._every, self._save, self._points = every_seconds, save, frozenset(points)
        self._saved_at = time.monotonic()

    def asks(self, state: TrainState) -> bool:
        """Whether a checkpoint is due by rank 0's clock."""
        return time.monotonic() - self._saved_at >= self._every

    def acts_at(self, step: int) -> bool:
        """See `StepHook.acts_at`."""
        return step in self._points

    def __call__(self, state: TrainState) -> None:
        """Save where it is due, or the run is interrupted; a diverged state is never saved."""
        if state.stop == "diverged":
            return
        due = state.asked(self.question) or state.stop == "interrupted"
        if state.step not in self._points and (state.step == state.run.steps or not due):
            return
        log.debug("step %d: saving a checkpoint", state.step)
        self._save(state)
        self._saved_at = time.monotonic()


class PublishPrefix(StepHook):
    """Publishes the state after the last step of each prefix that other runs share."""

    def __init__(self, folders: dict[int, Path], save: Callable[[TrainState, Path], None]) -> None:
        self._folders, self._save = folders, save

    def acts_at(self, step: int) -> bool:
        """See `StepHook.acts_at`."""
        return step in self._folders

    def __call__(self, state: TrainState) -> None:
        """Save this worker's part; a diverged state is not published.

        A valid published state is left alone: other runs may be reading it.
        """
        folder = self._folders.get(state.step)
        if folder is None or state.stop == "diverged":
            return
        missing = state.worker.rank == 0 and verify(folder) is None
        if broadcast_from_rank_0(int(missing), state.worker, state.engine.device):
            self._save(state, folder)


class StopOnRequest(StepHook):
    """Interrupts the run at its stop file (of the driver), at a newer attempt, and after the step
    `until`."""

    question = "stop"

    def __init__(
        self, run_folder: Path, until: int | None = None, *, fence: AttemptFence | None = None
    ) -> None:
        self._path, self._until, self._fence = RunFolder(run_folder).stop, until, fence

    def asks(self, state: TrainState) -> bool:
        """Whether rank 0 finds the file or a newer attempt."""
        return self._path.exists() or self._is_superseded()

    def acts_at(self, step: int) -> bool:
        """See `StepHook.acts_at`."""
        return step == self._until

    def __call__(self, state: TrainState) -> None:
        """All workers stop after the same step."""
        requested = state.asked(self.question)
        if state.stop is not None or state.step == state.run.steps:
            return
        if requested or state.step == self._until:
            state.stop = "interrupted"
            state.stop_reason = (
                "stopped on request" if requested else f"was to stop at {state.step}"
            )
            state.stop_code = "requested" if requested else "segment_end"

    def _is_superseded(self) -> bool:
        return self._fence is not None and self._fence.superseded()


class StopOnDivergence(StepHook):
    """Ends a run whose loss or gradient is not finite, before a checkpoint saves it.

    On a GPU it ends one step later than the one that is named, as its numbers arrive then.
    """

    def __call__(self, state: TrainState) -> None:
        """Check the means over workers: one worker's non-finite number makes them non-finite."""
        for numbers in state.known:
            watched = {"loss": numbers.values["loss"], "gradient_norm": numbers.gradient_norm}
            lost = [f"{name} is {v}" for name, v in watched.items() if not math.isfinite(v)]
            if lost:
                state.stop = "diverged"
                state.stop_reason = f"{lost[0]} at step {numbers.step}"
                state.stop_code = "diverged"
                return


class StopOnCollapse(StepHook):
    """Ends a run whose logged values its family judges as a collapse (see `Family.collapse`).

    It checks means over workers every `every` steps, so all workers stop after the same step. A
    stage that logs none of the watched values is left alone. A resumed run starts with no points.
    """

    def __init__(self, every: int) -> None:
        self._every, self._stage = every, 0
        self._points: list[dict[str, float]] = []

    def acts_at(self, step: int) -> bool:
        """See `StepHook.acts_at`."""
        return step % self._every == 0

    def __call__(self, state: TrainState) -> None:
        """Add a point of this stage; stop when the last points all show a collapse."""
        if not self.acts_at(state.step):
            return
        run, values = state.run, state.numbers.values
        watched = {name: values[name] for name in state.family.watched if name in values}
        if not watched:
            return
        if state.stage_index != self._stage:
            self._stage, self._points = state.stage_index, []
        self._points.append(watched)
        self._points = self._points[-WATCHED_POINTS:]
        reason = state.family.collapse(self._points, run.model, run.objective)
        if reason is not None and state.stop is None:
            state.stop = "diverged"
            state.stop_reason = f"{reason} (step {state.step}, stage {state.stage.name})"
            state.stop_code = "collapsed"


def order_digests(run: RunSpec, steps: int, num_sequences: int) -> dict[int, str]:
    """Digests of the order of the sequences read, by each power-of-two count up to `steps`."""
    fingerprint = OrderFingerprint()
    for step in range(steps):
        fingerprint.update(
            sequence_ids(
                run.data.seed, step, run.training.batch_sequences, num_sequences=num_sequences
            )
        )
    return fingerprint.digests


def stage_ends(run: RunSpec) -> set[int]:
    """The step counts at which each stage is complete."""
    ends, total = set(), 0
    for stage in run.stages:
        total += stage.steps
        ends.add(total)
    return ends


def worker_load(now: tuple[int, float, float], last: tuple[int, float, float]) -> dict[str, float]:
    """Memory in GB, the GPU's load, and the share of time spent on batches since the `last` logged
    step.

    `now` and `last` are (step, seconds, seconds spent on batches).
    """
    values = {"memory_gb": psutil.Process(os.getpid()).memory_info().rss / 1e9}
    if torch.cuda.is_available():
        values["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        values |= gpu_load()
    seconds = now[1] - last[1]
    values["data_wait_fraction"] = (now[2] - last[2]) / seconds if seconds > 0 else 0.0
    return values


def load_metrics(workers: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Mean and maximum over the workers of what each measured, and the load of this machine in
    percent; means of GPUs are the system's. What is not known is left out."""
    values = {
        Metric.system("cpu_percent"): psutil.cpu_percent(),
        Metric.system("memory_percent"): psutil.virtual_memory().percent,
    }
    for name, (mean, largest) in workers.items():
        values[Metric.system(name) if name in GPU_LOAD else Metric.worker_mean(name)] = mean
        values[Metric.worker_max(name)] = largest
    return {name: value for name, value in values.items() if math.isfinite(value)}
