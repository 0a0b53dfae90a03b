"""Collective calls of one run's workers: rank 0's decisions, means and maxima over workers.

Every worker makes each call equally often; a run of one worker needs no process group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class WorkerRank:
    """Rank of this worker, and the number of the run's workers."""

    rank: int = 0
    world_size: int = 1


def broadcast_from_rank_0(value: int, worker: WorkerRank, device: torch.device) -> int:
    """Rank 0's value, on every worker."""
    if worker.world_size == 1:
        return value
    shared = torch.tensor([value], device=device)
    dist.broadcast(shared, src=0)
    return int(shared.item())


def gather_objects(value: Any, worker: WorkerRank) -> list[Any]:
    """Every worker's value by rank, on every worker; values are pickled."""
    if worker.world_size == 1:
        return [value]
    values: list[Any] = [None] * worker.world_size
    dist.all_gather_object(values, value)
    return values


def mean_and_max_over_workers(
    values: dict[str, float], worker: WorkerRank, device: torch.device
) -> dict[str, tuple[float, float]]:
    """(Mean, maximum) of each named number over the workers, on every worker."""
    if worker.world_size == 1:
        return {name: (value, value) for name, value in values.items()}
    names = sorted(values)
    mine = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    rows = [torch.empty_like(mine) for _ in range(worker.world_size)]
    dist.all_gather(rows, mine)
    table_WN = torch.stack(rows)
    means, maxima = table_WN.mean(0).tolist(), table_WN.amax(0).tolist()
    return dict(zip(names, zip(means, maxima, strict=True), strict=True))
