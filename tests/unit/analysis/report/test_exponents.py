"""How far exponents of two families lie apart, paired by budget."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress, t

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


def test_what_budgets_have_in_common_cancels() -> None:
    """The 2% of each budget would alone make an interval ten times as wide."""
    rows = pair(np.random.default_rng(0))
    found = exponent_difference(*rows)
    logs = [np.log(each["loss"]).groupby(each["budget"]).mean() for each in rows]
    line = linregress(np.log(BUDGETS), (logs[0] - logs[1]).to_numpy())
    half = t.ppf(0.975, len(BUDGETS) - 2) * line.stderr
    assert found.value == pytest.approx(-line.slope)
    assert [found.low, found.high] == pytest.approx([-line.slope - half, -line.slope + half])
    assert found.low < GAMMAS[0] - GAMMAS[1] < found.high
    assert found.high - found.low < 0.005


def test_few_common_budgets_are_refused() -> None:
    with pytest.raises(FitError, match="3 common budgets are too few"):
        exponent_difference(*pair(np.random.default_rng(0), BUDGETS[:3]))
