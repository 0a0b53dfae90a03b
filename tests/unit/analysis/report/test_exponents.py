"""How far exponents of two families lie apart, paired by budget."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.report.comparisons import exponent_difference
from cola.errors import FitError

BUDGETS = np.geomspace(1e15, 1e18, 6)
GAMMAS = (0.06, 0.05)


def pair(draw: np.random.Generator, budgets: np.ndarray = BUDGETS) -> list[pd.DataFrame]:
    """Two families of two seeds; 2% of noise that a budget has in common, 0.2% of a run's own."""
    common, found = 0.02 * draw.standard_normal(len(budgets)), []
    for gamma in GAMMAS:
        compute = np.repeat(budgets, 2)
        noise = np.repeat(common, 2) + 0.002 * draw.standard_normal(len(compute))
        loss = 3 * (compute / 1e16) ** -gamma * np.exp(noise)
        found.append(pd.DataFrame({"budget": compute, "compute": compute, "loss": loss}))
    return found


def test_intervals_hold_the_difference_whatever_budgets_have_in_common() -> None:
    draw = np.random.default_rng(0)
    found = [exponent_difference(*pair(draw)) for _ in range(60)]
    truth = GAMMAS[0] - GAMMAS[1]
    held = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.88 <= held <= 0.99
    assert np.median([each.value for each in found]) == pytest.approx(truth, abs=2e-4)
    assert np.median([each.high - each.low for each in found]) < truth


def test_few_common_budgets_are_refused() -> None:
    with pytest.raises(FitError, match="3 common budgets are too few"):
        exponent_difference(*pair(np.random.default_rng(0), BUDGETS[:3]))
