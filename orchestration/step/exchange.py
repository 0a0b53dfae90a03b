"""The numbers of a step that all workers know: one collective, read when it has arrived.

Every worker's scalars and rank 0's requests travel in one vector. On a GPU it is copied to the host
without waiting, and read one step later, so that the host is never behind the device; where
somebody acts on a step's state, its numbers are waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class StepNumbers:
    """Numbers of a step (the first is 1) that are the same on every worker.

    `values` are means over the workers (so over the global batch), `gradient_norm` is that of the
    mean gradient before clipping. `asked` has what rank 0 asked for after that step.
    """

    step: int
    values: dict[str, float]
    gradient_norm: float
    asked: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _OnItsWay:
    """Rows of all workers, (W, N), on the host or on the way there."""

    step: int
    names: list[str]
    questions: list[str]
    table_WN: Tensor
    arrived: torch.cuda.Event | None

    def numbers(self) -> StepNumbers:
        """Wait until the rows are there, and read them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        means: list[float] = self.table_WN.mean(0).tolist()
        count = len(self.names)
        flags = self.table_WN[0, count + 1 :].tolist()
        asked = (name for name, flag in zip(self.questions, flags, strict=True) if flag)
        return StepNumbers(
            self.step,
            dict(zip(self.names, means[:count], strict=True)),
            means[count],
            frozenset(asked),
        )


class StepExchange:
    """Gathers each step's numbers; all workers make the same calls in the same order."""

    def __init__(self, world_size: int, device: torch.device, lag: int | None = None) -> None:
        """`lag`: by how many steps numbers may be late (None: one on a GPU, else none)."""
        self._world_size, self._device = world_size, device
        self._lag = int(device.type == "cuda") if lag is None else lag
        self._pending: deque[_OnItsWay] = deque()

    def begin(
        self, step: int, values: Mapping[str, Tensor], norm: Tensor, *, asked: Mapping[str, bool]
    ) -> None:
        """Send this worker's numbers; of `asked`, only rank 0's answers count."""
        names = list(values)
        scalars = torch.stack([*values.values()]).double()
        flags = torch.tensor([float(flag) for flag in asked.values()], dtype=torch.float64)
        if self._device.type == "cuda":
            flags = flags.pin_memory().to(self._device, non_blocking=True)
        mine = torch.cat([scalars, norm.double().reshape(1), flags])
        table_WN = mine[None]
        if self._world_size > 1:
            rows = [torch.empty_like(mine) for _ in range(self._world_size)]
            dist.all_gather(rows, mine)
            table_WN = torch.stack(rows)
        arrived = None
        if self._device.type == "cuda":
            host_WN = torch.empty(table_WN.shape, dtype=torch.float64, pin_memory=True)
            host_WN.copy_(table_WN, non_blocking=True)
            arrived, table_WN = torch.cuda.Event(), host_WN
            arrived.record()
        self._pending.append(_OnItsWay(step, names, list(asked), table_WN, arrived))

    def known(self, *, at_once: bool) -> list[StepNumbers]:
        """Numbers that are known by now and were not before, oldest first.

        All that were sent are waited for where `at_once`, or where rank 0 asked for something, as
        what it asked for is done after the newest step.
        """
        found: list[StepNumbers] = []
        while self._pending:
            waits = at_once or any(numbers.asked for numbers in found)
            if not waits and len(self._pending) <= self._lag:
                break
            found.append(self._pending.popleft().numbers())
        return found
