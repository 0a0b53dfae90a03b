"""Times that a global batch spreads evenly over [0, 1), for masking (model.md, Eqs. 30 and 42) and
flows (model.md, Eq. 53): the low-discrepancy sampler of arXiv 2107.00630, with blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cola.seeding import Stream

GOLDEN = (5**0.5 - 1) / 2  # multiples of it are spread evenly over the unit circle


def stratified_times(
    stream: Stream, *, positions: Sequence[int], global_size: int, blocks: int
) -> Tensor:
    """Uniform times, one a block, (B, b).

    t_i = (u + i) / global_size at position i of the global batch in the first block, one u a step.
    In block k they are shifted by k golden ratios of the unit circle, so that the times of a
    sequence are spread over it as well.
    """
    first = stream.shared_uniform("timestep")
    position_B = torch.tensor(list(positions), dtype=torch.float32, device=stream.device)
    t_Bb = ((first + position_B) / global_size)[:, None]
    if blocks > 1:
        t_Bb = (t_Bb + GOLDEN * torch.arange(blocks, device=stream.device)) % 1.0
    return t_Bb
