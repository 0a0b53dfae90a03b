"""An engine's training state at each ZeRO stage, saved and loaded as fragments.

The state is the weights, AdamW's two moments, its step count, frozen parameters and buffers. Stage
0 (and an engine without DeepSpeed) holds all of it on every worker. Stages 1 and 2 hold whole
weights for the forward pass, and shards of flat float32 copies with their moments; stage 3 holds
shards of both. See `orchestration.training.sharded_state` for the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orchestration.compat.deepspeed import (
    loading_weights,
    partition_of,
    weights_held,
    wrapped_optimizer,
)
from orchestration.training.distributed import WorkerRank
from orchestration.training.sharded_state import (
    BUFFER,
    MOMENTS,
    WEIGHT,
    Fragment,
    FragmentReader,
    write_fragments,
)


@dataclass(frozen=True)
class Shard:
    """This worker's part of a trained parameter, within a tensor that the optimiser updates.

    Elements [start, start + numel) of the flattened parameter are `flat[offset : offset + numel]`.
    """

    name: str
    start: int
    numel: int
    flat: Tensor
    offset: int

    def of(self, tensor: Tensor) -> Tensor:
        """This part of `flat`, or of a moment of the same shape: a view (numel,)."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.numel)


class ZeroState:
    """The training state of one engine whose optimiser is torch's AdamW."""

    def __init__(
        self,
        engine: Any,
        zero_stage: int,
        worker: WorkerRank,
        *,
        intervals: Mapping[nn.Parameter, int],
    ) -> None:
        """`engine` has a `module` and an `optimizer`: AdamW, which stages 1 to 3 wrap.

        `intervals`: parameters that are updated by every so many steps only.
        """
        self._intervals = intervals
        self._module: nn.Module = engine.module
        self._zero, self._stage = engine.optimizer, zero_stage
        adamw = wrapped_optimizer(engine.optimizer) if zero_stage else engine.optimizer
        self._adamw: torch.optim.Optimizer = adamw
        self._worker = worker

    def save(self, folder: Path, steps: int) -> None:
        """Write what this worker holds after `steps` steps.

        Raises:
            OSError: the folder cannot be written.
        """
        write_fragments(folder, self._fragments(), worker=self._worker, steps=steps)

    @torch.no_grad()
    def load(self, folder: Path) -> int:
        """Read what `save` wrote with any number of workers at any stage; returns its step count.

        Raises:
            ValueError: the files lack a part of the module's state.
        """
        with loading_weights(self._zero, self._stage), FragmentReader(folder) as reader:
            for shard in self._shards():
                self._load_shard(shard, reader)
            for name, parameter in self._module.named_parameters():
                start, held = self._held(parameter)
                held.copy_(reader.read(WEIGHT, name, start, numel=len(held)))
            for name, buffer in self._buffers():
                flat = reader.read(BUFFER, name, 0, numel=buffer.numel())
                buffer.copy_(flat.view_as(buffer))
            steps = reader.steps
        return steps

    def _fragments(self) -> Iterator[Fragment]:
        """What this worker writes: what it alone holds and, on rank 0, what all workers hold."""
        first = self._worker.rank == 0
        for shard in self._shards() if first or self._stage else ():
            yield Fragment(WEIGHT, shard.name, shard.start, shard.of(shard.flat))
            moments = self._adamw.state.get(shard.flat, {})
            for kind in MOMENTS:
                if kind in moments:
                    yield Fragment(kind, shard.name, shard.start, shard.of(moments[kind]))
        for name, parameter in self._module.named_parameters():
            if not parameter.requires_grad and (first or self._stage == 3):
                yield Fragment(WEIGHT, name, *self._held(parameter))
        for name, buffer in self._buffers() if first else ():
            yield Fragment(BUFFER, name, 0, buffer.reshape(-1))

    def _load_shard(self, shard: Shard, reader: FragmentReader) -> None:
        """Read a trained parameter's float32 copy, and its moments if it ever had a gradient."""
        shard.of(shard.flat).copy_(reader.read(WEIGHT, shard.name, shard.start, numel=shard.numel))
        if not reader.has(MOMENTS[0], shard.name):
            return
        state = self._adamw.state[shard.flat]
        for kind in MOMENTS:
            if kind not in state:
                state[kind] = torch.zeros_like(shard.flat)
            moment = reader.read(kind, shard.name, shard.start, numel=shard.numel)
            shard.of(state[kind]).copy_(moment)
        # As torch's AdamW does: on the device only where the fused kernel reads it.
        device = shard.flat.device if self._adamw.defaults["fused"] else None
        parameter = self._module.get_parameter(shard.name)
        updates = reader.steps // self._intervals.get(parameter, 1)
        state["step"] = torch.tensor(float(updates), device=device)

    def _shards(self) -> Iterator[Shard]:
        """This worker's part of each trained parameter."""
        for name, parameter in self._module.named_parameters():
            shard = self._shard(name, parameter) if parameter.requires_grad else None
            if shard is not None and shard.numel:
                yield shard

    def _shard(self, name: str, parameter: Any) -> Shard | None:
        if self._stage == 0:
            return Shard(name, 0, parameter.numel(), parameter, 0)
        part = partition_of(self._zero, self._stage, parameter, rank=self._worker.rank)
        if part is None:
            return None
        return Shard(name, part.start, part.numel, part.flat, part.offset)

    def _held(self, parameter: Any) -> tuple[int, Tensor]:
        """First element and view (n,) of the forward pass's weights on this worker."""
        if self._stage < 3:
            return 0, parameter.detach().view(-1)
        return weights_held(parameter, self._worker.rank)

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Persistent buffers of the module, which every worker holds."""
        persistent = self._module.state_dict().keys()
        return ((name, b) for name, b in self._module.named_buffers() if name in persistent)
