"""How many sequences pass through the model at once: from free memory, and after a shortage of it.

The global batch is the same whatever the size: gradients are accumulated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt

from cola.data import micro_batches
from cola.errors import RunError, StorageError
from cola.files import read_record, write_atomically
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec
from orchestration.planning.memory import device_share, memory_plan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shortage:
    """After `step` steps, passes of `sequences` did not fit; `smaller` is tried next."""

    step: int
    sequences: int
    smaller: int
    problem: str

    def __str__(self) -> str:
        return (
            f"micro-batches of {self.sequences} sequences do not fit the device's memory at step "
            f"{self.step + 1} ({self.problem}); training resumes with {self.smaller}"
        )


def shortage_at(step: int, sequences: int, problem: str, *, stage: str) -> Shortage:
    """What to do where passes of so many sequences do not fit: make half as large ones.

    Raises:
        RunError: they have one sequence.
    """
    if sequences == 1:
        raise RunError(
            f"one sequence of stage {stage} does not fit the device's memory at step {step + 1} "
            f"({problem}); set resources.activation_checkpointing=always, raise resources.workers "
            "or resources.zero_stage, shorten data.sequence_length, or choose a smaller size"
        )
    return Shortage(step, sequences, -(-sequences // 2), problem)


class GroupShortageError(RunError):
    """Passes of a worker that others wait for do not fit: all start again with smaller ones."""

    def __init__(self, shortage: Shortage) -> None:
        super().__init__(str(shortage))
        self.shortage = shortage

    def __reduce__(self) -> tuple[type[GroupShortageError], tuple[Shortage]]:
        return type(self), (self.shortage,)


class Halvings:
    """Tells workers that only left to start again with smaller passes from those that failed."""

    def __init__(self) -> None:
        self._smallest: int | None = None

    def has(self, failures: Iterable[BaseException]) -> bool:
        """Whether the group of which these are the failures starts again with smaller passes.

        A worker that is out of memory leaves the others behind in a collective, so whatever they
        fail of counts for nothing. Where the announced size is no smaller than one before, it is
        not in effect: that is a failure.
        """
        sizes = [each.shortage.smaller for each in failures if isinstance(each, GroupShortageError)]
        if not sizes or (self._smallest is not None and min(sizes) >= self._smallest):
            return False
        self._smallest = min(sizes)
        return True


def update_shortage(step: int, problem: str, *, stage: str) -> RunError:
    """An optimiser's step that does not fit, which smaller passes would not change."""
    return RunError(
        f"the optimiser's step of stage {stage} does not fit the device's memory at step "
        f"{step + 1} ({problem}); smaller micro-batches do not help: raise resources.workers with "
        "resources.zero_stage at least 1, raise resources.gpus_per_worker where workers share a "
        "GPU, or choose a smaller size"
    )


class MicroBatchRecord(BaseModel):
    """The size that a shortage of memory has left, and for which circumstances it counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    micro_batch_sequences: PositiveInt
    workers: PositiveInt
    zero_stage: int
    device: str

    def write(self, path: Path) -> None:
        """Write the record, from which workers that start again take the size.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(path, self.model_dump_json(indent=1))


def recorded_size(path: Path, *, workers: int, zero_stage: int, device: str) -> int | None:
    """The size that an earlier start on such a device, so sharded, was left with; None: none was.

    A damaged record is reported, and counts for nothing.
    """
    try:
        record = read_record(path, MicroBatchRecord, what="a micro-batch", remedy="remove it")
    except StorageError as error:
        log.warning("%s", error)
        return None
    if record is None:
        return None
    found = (record.workers, record.zero_stage, record.device)
    return record.micro_batch_sequences if found == (workers, zero_stage, device) else None


def largest_pass(batch_sequences: int, workers: int, micro_batch_sequences: int | None) -> int:
    """Sequences of the largest pass that a worker makes."""
    share = -(-batch_sequences // workers)
    return -(-share // micro_batches(batch_sequences, workers, micro_batch_sequences))


def passes_of(run: RunSpec, workers: int, micro_batch_sequences: int | None) -> tuple[int, int]:
    """How many passes a worker makes in a step, and the sequences of the largest one."""
    sharing = (run.training.batch_sequences, workers, micro_batch_sequences)
    return micro_batches(*sharing), largest_pass(*sharing)


def size_that_fits(run: RunSpec, resources: ResourcesSpec, free: float, *, total: float) -> int:
    """The largest micro-batch for which `free` of a device's `total` bytes are enough by the plan's
    estimate; 1 where by it none is.

    A worker that has a share of the GPU takes no more than its share.
    """
    # Workers checkpoint activations only where that is planned: `auto` is decided by then.
    checkpointing = "always" if resources.checkpoints_activations else "never"
    asked = resources.model_copy(
        update={"micro_batch_sequences": None, "activation_checkpointing": checkpointing}
    )
    device_bytes = min(free, device_share(resources) * total)
    plan = memory_plan(run, asked, resources.zero_stage, device_bytes=device_bytes)
    return plan.micro_batch_sequences


def smallest(*sizes: int | None) -> int | None:
    """The smallest of the sizes that are given; None where none is: the whole share."""
    return min((size for size in sizes if size is not None), default=None)
