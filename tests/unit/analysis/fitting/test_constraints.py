"""Pinned, bounded and shared parameters."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fitting.constraints import Constraints, constrained, shared_law
from analysis.fitting.estimate import fit_law
from analysis.fitting.law import Array, Inputs, SizedLaw
from analysis.fitting.laws import LAWS
from cola.errors import FitError

N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))


def points(loss: Array, noise: float = 0.0) -> Inputs:
    drawn = np.random.default_rng(0).standard_normal(len(loss))
    return Inputs(loss * np.exp(noise * drawn), 6 * N * D, N, D)


def chinchilla(floor: float = 1.7, size: float = 400.0, alpha: float = 0.34) -> Array:
    return np.asarray(floor + size / N**alpha + 2000 / D**0.37)


@pytest.mark.parametrize("law", ["chinchilla", "tied", "outer", "equal", "compute"])
def test_a_pinned_law_is_the_best_of_the_free_law_at_that_value(law: str) -> None:
    data = points(chinchilla(), 0.003)
    pinned = fit_law(law, data, "least-squares", constraints=Constraints({"E": 1.6}))
    assert pinned.parameters["E"] == pytest.approx(1.6, rel=1e-12)
    assert len(pinned.theta) == len(LAWS[law].make(data).names) - 1
    narrow = Constraints(bounded={"E": (1.6 - 1e-7, 1.6 + 1e-7)})
    bounded = fit_law(law, data, "least-squares", constraints=narrow)
    assert bounded.diagnostics.objective == pytest.approx(pinned.diagnostics.objective, rel=1e-4)
    free = fit_law(law, data, "least-squares")
    assert free.diagnostics.objective <= pinned.diagnostics.objective
    if LAWS[law].needs_size:
        assert isinstance(pinned.law, SizedLaw)


def test_the_truth_pinned_leaves_the_rest_as_it_was() -> None:
    pins = Constraints({"E": 1.7, "alpha": 0.34})
    found = fit_law("chinchilla", points(chinchilla()), constraints=pins).parameters
    assert found["A"] == pytest.approx(400, rel=1e-3)
    assert found["beta"] == pytest.approx(0.37, rel=1e-4)
    few = np.array([0, 4, 12, 20])  # four runs carry what is left of the law
    rows = points(chinchilla()).subset(few)
    assert fit_law("chinchilla", rows, constraints=pins).parameters["beta"] == pytest.approx(0.37)


def test_a_bound_that_stops_a_parameter_is_named() -> None:
    bounds = Constraints(bounded={"alpha": (0.4, 0.5)})
    fit = fit_law("chinchilla", points(chinchilla(), 0.002), constraints=bounds)
    assert fit.parameters["alpha"] == pytest.approx(0.4)
    assert any("alpha sits on the bound that --bound gives it" in w for w in fit.warnings)


@pytest.mark.parametrize(
    ("constraints", "reason"),
    [
        (Constraints({"A": 400}), "a coefficient depends on its exponent"),
        (Constraints({"gamma": 0.2}), "law chinchilla has E, alpha, beta"),
        (Constraints({"E": 9.0}), "is not below the smallest loss"),
        (Constraints({"alpha": 4.0}), "takes 0.001 to 3"),
    ],
)
def test_what_cannot_be_constrained_is_refused(constraints: Constraints, reason: str) -> None:
    with pytest.raises(FitError, match=reason):
        fit_law("chinchilla", points(chinchilla()), constraints=constraints)


@pytest.mark.parametrize("law", ["chinchilla", "tied"])
def test_a_floor_in_common_is_one_floor(law: str) -> None:
    first, second = chinchilla(), chinchilla(size=700, alpha=0.4)
    both = Inputs(np.concatenate([first, second]), np.tile(6 * N * D, 2), np.tile(N, 2),
                  np.tile(D, 2))  # fmt: skip
    group = np.repeat([0, 1], len(N))
    base = LAWS[law].make(both)
    made = shared_law(base, both, group=group, families=("x", "y"), shared=("E",))
    fit = fit_law(law, both, "least-squares", starts=16, law=made)
    apart = [fit_law(law, points(each), "least-squares", starts=16) for each in (first, second)]
    assert fit.diagnostics.objective >= sum(a.diagnostics.objective for a in apart) - 1e-12
    if law == "chinchilla":
        assert fit.parameters["E"] == pytest.approx(1.7, rel=1e-3)
        assert fit.parameters["alpha[y]"] == pytest.approx(0.4, rel=1e-3)
        assert fit.parameters["alpha[x]"] == pytest.approx(0.34, rel=1e-3)
    pinned = constrained(base, Constraints({"E": 1.7}))
    shared = shared_law(pinned, both, group=group, families=("x", "y"), shared=base.names[3:4])
    assert "E" in shared.names
    assert "E" not in shared.free_names
    with pytest.raises(FitError, match="it is pinned"):
        shared_law(pinned, both, group=group, families=("x", "y"), shared=("E",))


def test_a_group_s_own_floor_lies_below_its_own_losses() -> None:
    high, low = chinchilla(floor=3.0), chinchilla(floor=1.2)
    both = Inputs(np.concatenate([high, low]), np.tile(6 * N * D, 2), np.tile(N, 2), np.tile(D, 2))
    group = np.repeat([0, 1], len(N))
    law = shared_law(LAWS["chinchilla"].make(both), both, group=group, families=("x", "y"),
                     shared=("alpha", "beta"))  # fmt: skip
    found = fit_law("chinchilla", both, starts=16, law=law).parameters
    assert found["E[x]"] == pytest.approx(3.0, rel=1e-3)
    assert found["E[y]"] == pytest.approx(1.2, rel=1e-3)
