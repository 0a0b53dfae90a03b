"""One process of several that add up their ranks by an all-reduce.

`python -m orchestration.doctor.all_reduce RANK WORLD FILE BACKEND`; the processes meet at FILE.
"""

from __future__ import annotations

import datetime
import sys

import torch
from torch import distributed

SECONDS = 30  # for the processes to meet; a chosen value


def main(rank: int, world: int, file: str, *, backend: str) -> None:
    """Add up the ranks of `world` processes.

    Raises:
        RuntimeError: the sum is not 0 + 1 + ... + (world - 1).
    """
    distributed.init_process_group(
        backend,
        init_method=f"file://{file}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=SECONDS),
    )
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    value = torch.tensor([float(rank)], device=device)
    distributed.all_reduce(value)
    distributed.destroy_process_group()
    if value.item() != sum(range(world)):
        raise RuntimeError(f"all-reduce over {world} ranks gave {value.item():g}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], backend=sys.argv[4])
