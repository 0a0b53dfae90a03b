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
        hint = "; divide per cent by 100" if 1 < wrong.max() <= 100 else ""
        raise FitError(
            f"--accuracy: {len(wrong)} values are no fractions between 0 and 1 (the first is "
            f"{wrong[0]:g}){hint}"
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
        raise FitError("accuracy does not rise as loss falls: there is no curve to fit")
    sigmoid = _solve(loss, accuracy, chance, starts=_starts(loss))
    expected, freedom = sigmoid.at(loss), max(1, len(loss) - 3)
    spread = float(np.sqrt(((accuracy - expected) ** 2).sum() / freedom))
    generator = np.random.default_rng(seed)
    if clusters is None:
        # The scatter is known from these points only: it is drawn too (Student's t).
        scatter = spread * np.sqrt(freedom / generator.chisquare(freedom, (samples, 1)))
        noise = scatter * generator.standard_normal((samples, len(loss)))
    else:
        number = np.unique(np.array([str(c) for c in clusters]), return_inverse=True)[1]
        drawn_once = generator.standard_normal((samples, int(number.max()) + 1))[:, number]
        noise = drawn_once * (accuracy - expected) * np.sqrt(len(loss) / freedom)
    drawn = expected + noise
    start = [(sigmoid.ceiling, sigmoid.slope, sigmoid.middle)]
    refits = tuple(_solve(loss, row, chance, starts=start) for row in drawn)
    return AccuracyFit(
        sigmoid, refits, spread, tuple(_warnings(sigmoid, loss, above, spread=spread))
    )


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
