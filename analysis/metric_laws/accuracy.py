"""From loss to task accuracy: a sigmoid, and the chain compute -> loss -> accuracy.

accuracy = chance + (ceiling - chance) / (1 + exp(k (L - L0))), L in nats per token: at high loss a
model guesses, and below L0 it answers (the two-step prediction of arXiv 2407.21783, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import least_squares

from analysis.fitting.bootstrap import scatter_factors
from analysis.fitting.law import Array
from cola.errors import FitError

LEAST_POINTS = 5  # chosen: two more than the sigmoid has free parameters


@dataclass(frozen=True)
class Sigmoid:
    """Accuracy in 0 .. 1 by loss; `slope` k > 0, per nat."""

    chance: float
    ceiling: float
    slope: float
    middle: float

    def at(self, loss: Array) -> Array:
        """Accuracy at these losses."""
        rising = 1 / (1 + np.exp(np.clip(self.slope * (loss - self.middle), -60, 60)))
        return np.asarray(self.chance + (self.ceiling - self.chance) * rising)


@dataclass(frozen=True)
class AccuracyFit:
    """The sigmoid with its refits; residual_sd in accuracy."""

    sigmoid: Sigmoid
    refits: tuple[Sigmoid, ...]
    residual_sd: float
    warnings: tuple[str, ...]


def fit_accuracy(
    loss: Array,
    accuracy: Array,
    chance: float,
    *,
    samples: int,
    seed: int,
    clusters: Sequence[object] | None = None,
) -> AccuracyFit:
    """Least squares over many starts, and refits of accuracies simulated with the fit's scatter;
    the residuals of one cluster (a run's checkpoints) are then scaled by one draw together.

    Raises:
        FitError: too few points, accuracies outside 0 .. 1, or none above chance.
    """
    if len(loss) < LEAST_POINTS:
        raise FitError(f"{len(loss)} points cannot carry a sigmoid; {LEAST_POINTS} are the least")
    wrong = accuracy[~((accuracy >= 0) & (accuracy <= 1))]
    if len(wrong):
        hint = "divide per cent by 100" if 1 < wrong.max() <= 100 else "mend or remove them"
        raise FitError(
            f"--accuracy: {len(wrong)} values are no fractions between 0 and 1 (the first is "
            f"{wrong[0]:g}); {hint}"
        )
    if not 0 <= chance < 1:
        hint = "; divide per cent by 100" if 1 < chance <= 100 else ""
        raise FitError(f"--chance {chance:g}: must lie between 0 and 1{hint}")
    above = accuracy - chance
    if above.max() <= 0:
        raise FitError(
            f"--chance {chance:g}: no accuracy is above it (the highest is {accuracy.max():g}); "
            "give the accuracy of guessing, or leave --accuracy out"
        )
    if np.polyfit(loss, above, 1)[0] >= 0:
        raise FitError(
            "accuracy does not rise as loss falls: there is no curve to fit; leave --accuracy out"
        )
    sigmoid = _solve(loss, accuracy, chance, starts=_starts(loss))
    expected = sigmoid.at(loss)
    noise = _noise(accuracy - expected, samples, np.random.default_rng(seed), clusters=clusters)
    start = [(sigmoid.ceiling, sigmoid.slope, sigmoid.middle)]
    refits = tuple(_solve(loss, expected + row, chance, starts=start) for row in noise)
    spread = _spread(accuracy - expected)
    return AccuracyFit(
        sigmoid, refits, spread, tuple(_warnings(sigmoid, loss, above, spread=spread))
    )


def _freedom(residual: Array) -> int:
    return max(1, len(residual) - 3)


def _spread(residual: Array) -> float:
    return float(np.sqrt((residual**2).sum() / _freedom(residual)))


def _noise(
    residual: Array,
    samples: int,
    generator: np.random.Generator,
    *,
    clusters: Sequence[object] | None,
) -> Array:
    """(samples, n): noise of accuracies as large as the residuals."""
    freedom = _freedom(residual)
    if clusters is None:
        scatter = _spread(residual) * scatter_factors(freedom, samples, generator)
        return np.asarray(scatter * generator.standard_normal((samples, len(residual))))
    number = np.unique(np.array([str(c) for c in clusters]), return_inverse=True)[1]
    drawn_once = generator.standard_normal((samples, int(number.max()) + 1))[:, number]
    return np.asarray(drawn_once * residual * np.sqrt(len(residual) / freedom))


def _starts(loss: Array) -> list[tuple[float, float, float]]:
    middles = np.quantile(loss, [0.0, 0.25, 0.5, 0.75])
    return [
        (ceiling, slope, float(middle))
        for ceiling, slope, middle in product((0.6, 0.95), (1.0, 5.0, 20.0), middles)
    ]


def _solve(
    loss: Array,
    accuracy: Array,
    chance: float,
    *,
    starts: list[tuple[float, float, float]],
) -> Sigmoid:
    def residual(values: Array) -> Array:
        return Sigmoid(chance, *values).at(loss) - accuracy

    margin = np.ptp(loss) + 1e-9
    low = [chance + 1e-3, 1e-2, loss.min() - 3 * margin]
    high = [1.0, 200.0, loss.max() + 3 * margin]
    solutions = [
        least_squares(residual, np.clip(start, low, high), bounds=(low, high)) for start in starts
    ]
    best = min(solutions, key=lambda solution: float(solution.cost))
    return Sigmoid(chance, *(float(value) for value in best.x))


def _warnings(sigmoid: Sigmoid, loss: Array, above: Array, *, spread: float) -> list[str]:
    warnings = []
    if above.max() < 2 * spread + 0.02:
        warnings.append("no point is clearly above chance: the sigmoid is not determined")
    if sigmoid.ceiling > 0.999:
        warnings.append("the ceiling sits on its bound 1: the data do not decide it")
    if not loss.min() <= sigmoid.middle <= loss.max():
        warnings.append("the sigmoid's middle lies outside the measured losses")
    return warnings


def accuracies(sigmoids: Sequence[Sigmoid], losses: Array) -> Array:
    """Accuracy (K,) of each refit of the sigmoid at its own loss (K,)."""
    return np.array([s.at(loss) for s, loss in zip(sigmoids, losses, strict=True)])
