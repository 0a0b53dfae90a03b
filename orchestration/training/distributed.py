"""What the workers of one run agree on: ranks, shared decisions, sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Place:
    """This worker among the run's workers."""

    rank: int = 0
    world_size: int = 1


def agree(value: int, place: Place, device: torch.device) -> int:
    """Rank 0's value on every worker (a collective call where there are several)."""
    if place.world_size == 1:
        return value
    shared = torch.tensor([value], device=device)
    dist.broadcast(shared, src=0)
    return int(shared.item())


def mean_over_workers(
    values: dict[str, float], place: Place, device: torch.device
) -> dict[str, float]:
    """Mean of each named number over the workers (a collective call where there are several)."""
    if place.world_size == 1:
        return values
    names = sorted(values)
    stacked = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    dist.all_reduce(stacked)
    return dict(zip(names, (stacked / place.world_size).tolist(), strict=True))


def spread_over_workers(
    values: dict[str, float], place: Place, device: torch.device
) -> dict[str, tuple[float, float]]:
    """(Mean, maximum) of each named number over the workers (a collective call)."""
    if place.world_size == 1:
        return {name: (value, value) for name, value in values.items()}
    names = sorted(values)
    mine = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    every = [torch.empty_like(mine) for _ in range(place.world_size)]
    dist.all_gather(every, mine)
    table_WN = torch.stack(every)
    means, largest = table_WN.mean(0).tolist(), table_WN.amax(0).tolist()
    return dict(zip(names, zip(means, largest, strict=True), strict=True))
