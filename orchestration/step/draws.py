"""A worker's inputs of one step, with all random draws made on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cola.data import PackedTokens, micro_batches, micro_slices, sequence_ids, worker_slice
from cola.families.interface.family import Batch, StageModule
from cola.seeding import Stream
from cola.study import RunSpec


@dataclass(frozen=True)
class MicroBatch:
    """Drawn inputs of one forward pass, and the weight of the pass in the mean over a step.

    The weight is (rows) / (mean rows of a pass): 1 where the global batch is divided evenly, 0
    where a pass is only made because other workers make one.
    """

    inputs: dict[str, Tensor]
    weight: float = 1.0

    def pinned(self) -> MicroBatch:
        """With inputs in memory from which a GPU copies while the host continues."""
        return MicroBatch(
            {name: value.contiguous().pin_memory() for name, value in self.inputs.items()},
            self.weight,
        )

    def on(self, device: torch.device) -> MicroBatch:
        """With inputs on the device; for copies from pinned memory the host does not wait."""
        return MicroBatch(
            {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()},
            self.weight,
        )


@dataclass(frozen=True)
class StageDraws:
    """Draws of one stage, which begins at `first_step`, for worker `rank` of `workers`.

    Sequences and draws are functions of (data seed, seed, step), so any number of workers and any
    micro-batch size give the same global batch. A worker with fewer sequences than other workers
    have micro-batches repeats one at weight zero, because collectives need equally many passes.
    """

    run: RunSpec
    tokens: PackedTokens
    module: StageModule
    first_step: int
    rank: int
    workers: int
    micro_batch_sequences: int | None

    @torch.no_grad()
    def at(self, step: int) -> list[MicroBatch]:
        """The worker's micro-batches of a step, on the host."""
        run, size = self.run, self.run.training.batch_sequences
        ids = sequence_ids(run.data.seed, step, size, num_sequences=len(self.tokens))
        mine = worker_slice(np.arange(size), self.rank, self.workers)
        count = micro_batches(size, self.workers, self.micro_batch_sequences)
        batches = []
        for part in micro_slices(mine, count):
            weight = len(part) * count * self.workers / size
            positions = (part if len(part) else mine[:1]).tolist()
            images = self.tokens.images_of(ids[positions])
            batch = Batch(
                tokens_BL=torch.from_numpy(self.tokens.rows(ids[positions])),
                images=None if images is None else torch.from_numpy(images),
                # In a global batch of more than an epoch a sequence appears twice: draws are keyed
                # by its position in the batch.
                stream=Stream(run.seed, step, positions),
                positions=positions,
                global_size=size,
                stage_step=step - self.first_step,
            )
            batches.append(MicroBatch(self.module.draw(batch), weight))
        return batches
