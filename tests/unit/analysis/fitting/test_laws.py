"""Laws: gradients are right, noiseless data are recovered, what cannot be fitted is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fitting import bootstrap as bootstrap_module
from analysis.fitting import choices
from analysis.fitting.bootstrap import (
    Misfit,
    bootstrap,
    delta_method,
    percentiles,
    resampling_weights,
    seed_noise,
    variance_components,
)
from analysis.fitting.constraints import SharedLaw
from analysis.fitting.estimate import ESTIMATORS, fit_law
from analysis.fitting.law import Array, Inputs, Law, PowerOfCompute, SizedLaw, predicted
from analysis.fitting.laws import LAWS, OPTIONS_READ
from analysis.fitting.power_law import chinchilla_law
from analysis.fitting.solver import huber, minimise
from cola.errors import FitError


def test_what_a_user_chooses_from_is_what_there_is() -> None:
    assert get_args(choices.Law) == tuple(LAWS)
    assert set(get_args(choices.AnyLaw)) == set(OPTIONS_READ)
    assert get_args(choices.Estimator) == tuple(ESTIMATORS)


FLOPS = np.geomspace(1e18, 1e22, 9)
GRID = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5))
SIZES, TOKENS = (axis.ravel() for axis in GRID)
UNIQUE = TOKENS / np.tile([0.5, 1.0, 2.0, 5.0, 20.0], 5)


def plane(loss: Callable[[Array, Array], Array], noise: float = 0.0, seed: int = 0) -> Inputs:
    drawn = np.random.default_rng(seed).standard_normal(len(SIZES))
    loss_of = loss(SIZES, TOKENS) * np.exp(noise * drawn)
    return Inputs(loss_of, 6 * SIZES * TOKENS, SIZES, TOKENS, UNIQUE)


def line(loss: Array) -> Inputs:
    return Inputs(np.asarray(loss, float), FLOPS)


def chinchilla(n: Array, d: Array) -> Array:
    return np.asarray(1.7 + 400 / n**0.34 + 2000 / d**0.37)


def laws(points: Inputs) -> list[Law]:
    group = np.arange(len(points)) % 2
    every: list[Law] = [entry.make(points) for entry in LAWS.values()]
    return [*every, SharedLaw(chinchilla_law(points), group, ("x", "y"))]


def test_gradients_agree_with_finite_differences() -> None:
    points = plane(chinchilla)
    for law in laws(points):
        theta = law.starts(points, 3, np.random.default_rng(1))
        low, high = law.bounds
        theta = np.clip(theta, low + 0.01, high - 0.01)
        _, gradient = law.log_loss(theta, points)
        for place in range(theta.shape[1]):
            step = np.zeros_like(theta)
            step[:, place] = 1e-6
            ahead, behind = (law.log_loss(theta + s * step, points)[0] for s in (1, -1))
            expected = (ahead - behind) / 2e-6
            np.testing.assert_allclose(gradient[..., place], expected, rtol=1e-4, atol=1e-7)


def repeated(
    E: float, A: float, B: float, alpha: float, beta: float, R_D: float, R_N: float
) -> Array:
    """Muennighoff et al. 2023 (arXiv 2305.16264), Eqs. 4 to 6, as they are written."""
    new = np.minimum(UNIQUE, TOKENS)
    data = new + new * R_D * (1 - np.exp(-(TOKENS / new - 1) / R_D))
    best = (alpha * A / (beta * B) * new**beta) ** (1 / alpha)
    used = np.minimum(best, SIZES)
    size = used + used * R_N * (1 - np.exp(-(SIZES / used - 1) / R_N))
    return np.asarray(E + A / size**alpha + B / data**beta)


def test_public_parameters_mean_what_the_law_says() -> None:
    """Predictions written out from the printed numbers, in the units of the data."""
    points = plane(chinchilla)
    n, d, c = SIZES, TOKENS, points.compute
    written: dict[str, Callable[..., Array]] = {
        "chinchilla": lambda E, A, B, alpha, beta: E + A / n**alpha + B / d**beta,
        "tied": lambda E, A, B, a, s: E + (A / n ** (1 - a) + B / d**a) ** s,
        "outer": lambda E, A, B, alpha, beta, s: E + (A / n**alpha + B / d**beta) ** s,
        "equal": lambda E, A, B, alpha: E + A / n**alpha + B / d**alpha,
        "repeated": repeated,
        "compute": lambda E, K, gamma: E + K / c**gamma,
        "compute-power": lambda K, gamma: K / c**gamma,
        "broken": lambda E, K, gamma, C1, f, delta: (
            E + K / c**gamma * (1 + (c / C1) ** (1 / f)) ** (-delta * f)
        ),
    }
    for name, entry in LAWS.items():
        law = entry.make(points)
        theta = law.starts(points, 4, np.random.default_rng(2))
        for row, found in zip(law.public(theta), predicted(law, theta, points), strict=True):
            np.testing.assert_allclose(written[name](*row), found, rtol=1e-9)
            if entry.formula is not None:
                logs = (np.log(v)[None] for v in (n, d, UNIQUE))
                np.testing.assert_allclose(entry.formula(row[None], *logs)[0], found, rtol=1e-9)


@settings(max_examples=8)
@given(
    irreducible=st.floats(0.5, 3.0),
    coefficient=st.floats(0.3, 3.0),
    gamma=st.floats(0.05, 0.5),
)
def test_noiseless_data_are_recovered(irreducible: float, coefficient: float, gamma: float) -> None:
    fit = fit_law("compute", line(irreducible + coefficient * (FLOPS / 1e20) ** -gamma))
    assert fit.parameters["E"] == pytest.approx(irreducible, rel=1e-3)
    assert fit.parameters["gamma"] == pytest.approx(gamma, rel=1e-3)


@pytest.mark.parametrize("estimator", ["huber", "least-squares", "variable-projection"])
def test_every_estimator_recovers_a_plane(estimator: str) -> None:
    fit = fit_law("chinchilla", plane(chinchilla), estimator)
    expected = {"E": 1.7, "A": 400, "B": 2000, "alpha": 0.34, "beta": 0.37}
    for name, value in expected.items():
        assert fit.parameters[name] == pytest.approx(value, rel=1e-3)


def test_a_break_is_found() -> None:
    flops = np.geomspace(1e16, 1e24, 40)
    loss = 1.0 + 3 * (flops / 1e16) ** -0.04 * (1 + (flops / 1e20) ** 2) ** (-0.06 / 2)
    fit = fit_law("broken", Inputs(loss, flops))
    assert fit.diagnostics.residual_sd < 1e-3
    assert fit.parameters["C1"] == pytest.approx(1e20, rel=0.5)


def test_families_share_their_exponents_and_nothing_else() -> None:
    first, second = plane(chinchilla), plane(lambda n, d: 1.5 + 300 / n**0.34 + 900 / d**0.37)
    both = Inputs(
        np.concatenate([first.loss, second.loss]),
        np.concatenate([first.compute, second.compute]),
        np.tile(SIZES, 2),
        np.tile(TOKENS, 2),
    )
    group = np.repeat([0, 1], len(first))
    law = SharedLaw(chinchilla_law(both), group, ("x", "y"))
    found = fit_law("chinchilla", both, law=law).parameters
    assert found["E[x]"] == pytest.approx(1.7, rel=1e-3)
    assert found["E[y]"] == pytest.approx(1.5, rel=1e-3)
    assert (found["alpha"], found["beta"]) == pytest.approx((0.34, 0.37), rel=1e-3)


BAD: list[tuple[str, list[float], list[float], str]] = [
    ("compute-power", [1e12, 2e12], [3.0, 2.0], "needs at least 3 different amounts"),
    ("compute", [1e12, 2e12, 4e12], [3.0, 2.0, 1.5], "needs at least 4 different amounts"),
    ("compute-power", [1e12] * 5, [3.0, 2.0, 2.5, 2.2, 2.1], "the data have 1"),
    ("compute-power", [1e12, 2e12, 4e12], [2.0, 2.5, 3.0], "does not fall with compute"),
    ("compute-power", [1e12, 2e12, 4e12], [3.0, float("nan"), 2.0], "1 values of loss are missing"),
    ("compute-power", [1e12, 2e12, -4e12], [3.0, 2.5, 2.0], "1 values of compute are missing"),
    ("chinchilla", [1e12, 2e12, 4e12], [3.0, 2.5, 2.0], "needs the number of parameters"),
]


@pytest.mark.parametrize(("law", "flops", "loss", "reason"), BAD)
def test_what_cannot_be_fitted_is_refused(
    law: str, flops: list[float], loss: list[float], reason: str
) -> None:
    with pytest.raises(FitError, match=reason):
        fit_law(law, Inputs(np.array(loss), np.array(flops)))


def test_a_plane_that_is_a_line_is_refused() -> None:
    n = np.geomspace(1e7, 1e9, 12)
    with pytest.raises(FitError, match="grow together"):
        fit_law("chinchilla", Inputs(chinchilla(n, 20 * n), 120 * n * n, n, 20 * n))


def test_a_missing_floor_is_flagged() -> None:
    fit = fit_law("compute", line(3 * (FLOPS / 1e20) ** -0.1))
    assert fit.parameters["E"] == pytest.approx(0.0, abs=0.05)
    assert any("E sits on its bound" in warning for warning in fit.warnings)


def test_one_odd_run_does_not_decide() -> None:
    loss = 1.8 + 0.6 * (FLOPS / 1e20) ** -0.15
    odd = loss.copy()
    odd[4] *= 1.2
    others = np.delete(np.arange(9), 4)
    found = fit_law("compute", line(odd), "huber")
    np.testing.assert_allclose(found.loss(line(loss))[others], loss[others], rtol=1e-3)


def test_the_solver_ends_where_the_gradient_vanishes() -> None:
    points = plane(chinchilla, noise=0.01)
    law = chinchilla_law(points)
    found = minimise(law, points, law.starts(points, 16, np.random.default_rng(0)), delta=np.inf)
    best = found.objective.argmin()
    assert found.gradient[best] < 1e-6
    residual = law.log_loss(found.theta, points)[0] - np.log(points.loss)
    np.testing.assert_allclose(found.objective, huber(residual, np.inf).sum(1), rtol=1e-12)
    assert huber(np.array([2e-3]), 1e-3)[0] == pytest.approx(1e-3 * (2e-3 - 0.5e-3))


def test_resampling_keeps_budgets_and_clusters() -> None:
    strata, clusters = [0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 2, 3, 4, 4]
    weights = resampling_weights(7, 500, 0, strata=strata, clusters=clusters)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert np.array_equal(weights[:, 5], weights[:, 6])
    each = weights[:, [0, 2, 3]].sum(1)
    np.testing.assert_allclose(each, 3)  # clusters of the first budget
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.15)


@pytest.mark.parametrize("kind", ["runs", "residuals"])
def test_bootstrap_and_delta_method_agree(kind: str) -> None:
    fit = fit_law("chinchilla", plane(chinchilla, noise=0.005), "least-squares")
    refits = bootstrap(fit, 400, 0, kind=kind)  # type: ignore[arg-type]
    errors = delta_method(fit)
    spread = dict(zip(fit.law.names, refits.public.std(0), strict=True))
    for name in ("E", "alpha", "beta"):
        assert spread[name] == pytest.approx(errors[name], rel=0.5)
    low, high = refits.confidence_band(fit.points)
    new_low, new_high = refits.prediction_band(fit.points)
    assert (new_high - new_low > high - low).all()


def test_seed_noise_is_what_repeats_scatter_by() -> None:
    noisy = np.exp(0.02 * np.random.default_rng(0).standard_normal(400))
    found = seed_noise(noisy, [number // 4 for number in range(400)])
    assert found is not None
    assert found[0] == pytest.approx(0.02, rel=0.1)
    assert found[1] == 300
    assert seed_noise(noisy[:3], [0, 1, 2]) is None


def test_intervals_of_few_refits_hold_as_many_further_ones_as_they_say() -> None:
    draws = np.random.default_rng(0).standard_normal((4000, 80))
    held = [low <= draws[i - 1, 0] <= high for i, (low, high) in enumerate(map(percentiles, draws))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.008)


def test_an_interval_takes_nine_refits_in_ten() -> None:
    refits = np.linspace(0.0, 1.0, 101)
    assert percentiles(refits) == pytest.approx((0.0155, 0.9845))  # ranks 2.55 and 99.45 of 102
    refits[:10] = np.nan
    assert percentiles(refits)[1] == pytest.approx(0.9845, abs=0.01)
    refits[10] = np.nan
    assert np.isnan(percentiles(refits)).all()


@pytest.mark.parametrize("kind", ["runs", "residuals"])
@pytest.mark.parametrize("labels", [None, [f"run {i // 5}" for i in range(25)]])
def test_refits_do_not_depend_on_the_size_of_their_chunks(
    kind: str, labels: list[object] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = fit_law("chinchilla", plane(chinchilla, noise=0.005), starts=8)
    strata = list(range(5)) * 5 if labels is None else None
    seen: list[tuple[int, int]] = []

    def refits(chunk: int) -> Array:
        monkeypatch.setattr(bootstrap_module, "CHUNK_NUMBERS", chunk * 25 * 5)
        found = bootstrap(
            fit, 12, 0, kind=kind, strata=strata, clusters=labels,  # type: ignore[arg-type]
            progress=lambda done, count: seen.append((done, count)),
        )  # fmt: skip
        return found.theta_KP

    whole = refits(12)
    np.testing.assert_allclose(refits(5), whole, rtol=1e-9)
    assert seen == [(12, 12), (5, 12), (10, 12), (12, 12)]


def test_the_scatter_between_runs_is_told_from_that_within() -> None:
    n, d = np.repeat(np.geomspace(1e7, 1e9, 60), 8), np.tile(np.geomspace(1e9, 1e11, 8), 60)
    number, draw = np.repeat(np.arange(60), 8), np.random.default_rng(0)
    noise = 0.006 * draw.standard_normal(60)[number] + 0.002 * draw.standard_normal(480)
    points = Inputs(chinchilla(n, d) * np.exp(noise), 6 * n * d, n, d)
    parts = variance_components(fit_law("chinchilla", points, "least-squares", starts=8), number)
    assert parts.common_sd == pytest.approx(0.006, rel=0.2)
    assert parts.own_sd == pytest.approx(0.002, rel=0.1)
    assert 50 < parts.common_freedom < 60


def test_bands_widen_beyond_the_data_alone() -> None:
    misfit = Misfit(times=2.0, held=0.7, folds=3, points=20, horizon=float(np.log(10)))
    found = misfit.widening(np.array([0.1, 1.0, np.sqrt(10), 10, 1e4]))
    np.testing.assert_allclose(found, [1, 1, 1.5, 2, 2])


def test_the_optimal_split_is_where_the_loss_is_least() -> None:
    points = plane(chinchilla)
    for name in ("chinchilla", "tied", "outer", "equal"):
        law = LAWS[name].make(points)
        assert isinstance(law, SizedLaw)
        assert isinstance(law, PowerOfCompute)
        theta = law.starts(points, 3, np.random.default_rng(3))
        products = np.log(np.geomspace(1e16, 1e22, 4))
        split = law.optimum(theta, products)
        np.testing.assert_allclose(
            split.log_parameters + split.log_tokens, np.tile(products, (3, 1))
        )
        for row in range(3):
            for column, product in enumerate(products):
                logs = split.log_parameters[row, column] + np.linspace(-2, 2, 41)
                around = Inputs(np.ones(41), np.ones(41), np.exp(logs), np.exp(product - logs))
                losses = predicted(law, theta[row : row + 1], around)[0]
                assert losses.argmin() == 20
                assert losses[20] == pytest.approx(split.loss[row, column])
        floor, gamma = law.growth(theta)
        above = split.loss - floor[:, None]
        expected = -np.diff(np.log(above), axis=1) / np.diff(products)
        np.testing.assert_allclose(expected, np.tile(gamma[:, None], (1, 3)), rtol=1e-6)
