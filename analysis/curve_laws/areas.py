"""Areas under a schedule of the learning rate: how far a run has gone, how much it has annealed.

T steps; the rate of step i (from 1) is eta_i.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from analysis.fitting.law import Array


def forward_area(rates_T: Array) -> Array:
    """S1 after every step: the sum of the rates so far (T,)."""
    return np.asarray(np.cumsum(rates_T))


def end_of_warmup(rates_T: Array) -> int:
    """The step (from 1) at which the first rise reaches its peak; 1 where rates begin with it."""
    falls = np.flatnonzero(np.diff(rates_T) < -FLAT * rates_T.max())
    risen = rates_T[: int(falls[0]) + 1] if len(falls) else rates_T
    return int(np.argmax(risen >= (1 - FLAT) * risen.max())) + 1


def annealing_area(rates_T: Array, timescale: float) -> Array:
    """S2 after every step (T,), with lambda = 1 - 1 / timescale.

    S2(s) = sum over i <= s of m_i, where m_i = lambda m_(i-1) + eta_(i-1) - eta_i is the momentum
    of the rate's fall (arXiv 2408.11029, Eq. 3). It begins after the warm-up, whose rise anneals
    nothing.
    """
    first = end_of_warmup(rates_T)
    falls = np.zeros(len(rates_T))
    falls[first:] = rates_T[first - 1 : -1] - rates_T[first:]
    momentum = lfilter([1.0], [1.0, 1 / timescale - 1], falls)
    return np.asarray(np.cumsum(momentum))


def shape_of(rates_T: Array) -> str:
    """What the rates do after their warm-up: `constant`, `stable-decay` (as WSD: the peak for at
    least a fifth of the steps, then a fall), `decay` (as a cosine) or `rewarmed` (they rise again).
    """
    after = rates_T[end_of_warmup(rates_T) - 1 :]
    peak = float(after[0])
    if (np.abs(after - peak) <= FLAT * peak).all():
        return "constant"
    if (np.diff(after) > FLAT * peak).any():
        return "rewarmed"
    stable = float((after >= (1 - FLAT) * peak).mean())
    return "stable-decay" if stable >= STABLE else "decay"


FLAT = 1e-6  # share of the peak below which rates do not differ
STABLE = 0.2  # chosen: share of the steps at the peak from which a schedule has a stable part
