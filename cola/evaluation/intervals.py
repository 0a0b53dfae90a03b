"""What all bootstrap intervals of evaluation have in common."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


def percentile_interval(resampled: np.ndarray) -> tuple[float, float]:
    """The middle `CONFIDENCE` of a statistic's values over resamples."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)
