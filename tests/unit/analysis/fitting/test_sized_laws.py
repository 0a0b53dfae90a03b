"""Laws beyond the sum of two powers: recovered from points that they made, refused where they are
not determined."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fitting.bootstrap import bootstrap
from analysis.fitting.estimate import fit_law
from analysis.fitting.law import Array, Inputs
from analysis.fitting.laws import LAWS
from cola.errors import FitError

TRUTHS = {
    "outer": {"E": 1.7, "A": 300.0, "B": 3000.0, "alpha": 0.4, "beta": 0.45, "s": 0.8},
    "equal": {"E": 1.7, "A": 600.0, "B": 2500.0, "alpha": 0.36},
    "repeated": {
        "E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_D": 15.4, "R_N": 5.3,
    },
}  # fmt: skip


def grid(law: str, noise: float = 0.0, seed: int = 0) -> Inputs:
    """Eight sizes by six token counts, of which the law repeated has a fixed set's epochs."""
    sizes, tokens = np.geomspace(1e7, 1e10, 8), np.geomspace(1e8, 4e10, 8)
    n, d = (axis.ravel() for axis in np.meshgrid(sizes, tokens))
    unique = np.tile([1e8, 4e8, 1.6e9, 6.4e9], len(n) // 4)
    truth = np.array([list(TRUTHS[law].values())])
    formula = LAWS[law].formula
    assert formula is not None
    loss = formula(truth, np.log(n)[None], np.log(d)[None], np.log(unique)[None])[0]
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return Inputs(loss, 6 * n * d, n, d, unique)


@pytest.mark.parametrize("law", TRUTHS)
def test_noiseless_points_give_back_their_law(law: str) -> None:
    found = fit_law(law, grid(law), starts=16)
    assert found.parameters == pytest.approx(TRUTHS[law], rel=2e-3)
    assert not any("sits on its bound" in warning for warning in found.warnings)


def test_repeated_data_are_worth_what_the_law_says() -> None:
    fit = fit_law("repeated", grid("repeated", 0.003), "least-squares", starts=8)
    ends = bootstrap(fit, 60, 0, kind="residuals").intervals()
    for name in ("R_D", "R_N", "alpha"):
        low, high = ends[name]
        assert low < TRUTHS["repeated"][name] < high
    # Four epochs are worth almost four times the data, forty are not.
    once, four, forty = _losses(fit.parameters, np.array([1.0, 4.0, 40.0]))
    new = _losses(fit.parameters, np.array([1.0, 4.0, 40.0]), repeat=False)
    assert four - new[1] < 0.1 * (once - new[1])
    assert forty - new[2] > 0.15 * (once - new[2])


def _losses(parameters: dict[str, float], epochs: Array, *, repeat: bool = True) -> Array:
    formula, unique = LAWS["repeated"].formula, 1e10
    assert formula is not None
    tokens = np.log(unique * epochs)[None]
    of = np.full((1, 3), np.log(unique)) if repeat else tokens
    row = np.array([list(parameters.values())])
    return np.asarray(formula(row, np.full((1, 3), np.log(1e8)), tokens, of)[0])


def test_without_repeats_nothing_can_be_known_of_them() -> None:
    points = grid("repeated")
    assert points.unique is not None
    assert points.tokens is not None
    fresh = Inputs(points.loss, points.compute, points.parameters, points.tokens, points.tokens)
    with pytest.raises(FitError, match=r"more than 1\.5 epochs"):
        fit_law("repeated", fresh)
    lacking = Inputs(points.loss, points.compute, points.parameters, points.tokens)
    with pytest.raises(FitError, match="--unique"):
        fit_law("repeated", lacking)


def test_five_pairs_carry_the_law_of_one_exponent_alone() -> None:
    five = grid("equal").subset(np.array([0, 9, 25, 42, 56]))
    assert fit_law("equal", five).parameters["alpha"] == pytest.approx(0.36, rel=1e-2)
    with pytest.raises(FitError, match="5 free parameters and needs at least 6"):
        fit_law("chinchilla", five)
    with pytest.raises(FitError, match="6 free parameters and needs at least 7"):
        fit_law("outer", five)
