"""Loss against compute: L = E + K C^-gamma, and its special case without a floor.

L in nats per token, C in training FLOPs of a named convention. Fitted on log L with a Huber loss,
so that relative errors count and a single odd run does not decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

HUBER_DELTA = 1e-3
FLOOR_NEEDS = 5  # budgets from which an irreducible loss E can be told from the power law
GAMMA_BOUNDS = (1e-4, 3.0)
GAMMA_STARTS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
FLOOR_STARTS = (0.0, 0.3, 0.6, 0.9)


@dataclass(frozen=True)
class ComputeLaw:
    """L = E + K (C / scale)^-gamma; `scale` is the geometric mean of the fitted C."""

    irreducible: float
    coefficient: float
    gamma: float
    scale: float

    def loss(self, flops: np.ndarray) -> np.ndarray:
        """Predicted L at these C."""
        return self.irreducible + self.coefficient * (flops / self.scale) ** -self.gamma

    @property
    def has_floor(self) -> bool:
        """Whether E was fitted."""
        return self.irreducible > 0


@dataclass(frozen=True)
class Fit:
    """A fitted law, how well it fits, and what to say about it.

    residual_sd: standard deviation of log residuals, with the degrees of freedom taken out.
    """

    law: ComputeLaw
    points: int
    residual_sd: float
    agreeing_starts: float
    warnings: tuple[str, ...]


class FitError(Exception):
    """The data cannot carry a law; says why in a sentence."""


def fit_compute_law(flops: np.ndarray, loss: np.ndarray) -> Fit:
    """Fit the law that the number of budgets can carry.

    Raises:
        FitError: fewer than three budgets, values that are not positive, or loss that does not
            fall with compute.
    """
    flops, loss = np.asarray(flops, float), np.asarray(loss, float)
    if not (np.isfinite(flops) & np.isfinite(loss) & (flops > 0) & (loss > 0)).all():
        raise FitError("some losses or compute values are not positive numbers")
    budgets = len(np.unique(np.round(np.log(flops), 2)))
    if budgets < 3:
        raise FitError(f"{budgets} budgets cannot carry a curve; three are the least")
    slope = np.polyfit(np.log(flops), np.log(loss), 1)[0]
    if slope >= 0:
        raise FitError("loss does not fall with compute")
    floor = budgets >= FLOOR_NEEDS
    scale = float(np.exp(np.log(flops).mean()))
    law, agreement = _best_of_starts(flops, loss, scale, floor)
    residual = np.log(loss) - np.log(law.loss(flops))
    free = max(1, len(loss) - (3 if floor else 2))
    return Fit(
        law,
        len(loss),
        float(np.sqrt((residual**2).sum() / free)),
        agreement,
        _warnings(law, budgets, floor),
    )


def bootstrap_band(
    fit: Fit, flops: np.ndarray, at: np.ndarray, samples: int, seed: int, level: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence band of the curve at `at`: refits of data simulated from the fit.

    Log residuals are drawn from a normal of the fit's own residual spread: the band shows what the
    scatter of these runs leaves open, not what another law would say.
    """
    generator = np.random.default_rng(seed)
    centre = np.log(fit.law.loss(flops))
    curves = []
    for _ in range(samples):
        drawn = np.exp(centre + fit.residual_sd * generator.standard_normal(len(centre)))
        law = _solve(flops, drawn, fit.law, fit.law.has_floor).law
        curves.append(law.loss(at))
    tail = 50 * (1 - level)
    low, high = np.percentile(np.array(curves), [tail, 100 - tail], axis=0)
    return low, high


@dataclass(frozen=True)
class _Solution:
    law: ComputeLaw
    cost: float


def _best_of_starts(
    flops: np.ndarray, loss: np.ndarray, scale: float, floor: bool
) -> tuple[ComputeLaw, float]:
    """The best local optimum, and the share of starts that reach it."""
    solutions = []
    for share in FLOOR_STARTS if floor else (0.0,):
        for gamma in GAMMA_STARTS:
            start = ComputeLaw(share * loss.min(), loss.mean() * (1 - share), gamma, scale)
            solutions.append(_solve(flops, loss, start, floor))
    best = min(solutions, key=lambda solution: solution.cost)
    agreeing = [abs(s.cost - best.cost) <= 1e-6 * best.cost + 1e-15 for s in solutions]
    return best.law, sum(agreeing) / len(agreeing)


def _solve(flops: np.ndarray, loss: np.ndarray, start: ComputeLaw, floor: bool) -> _Solution:
    """One local optimisation in (E, log K, gamma)."""
    relative, target = np.log(flops / start.scale), np.log(loss)
    ceiling = 0.999 * float(loss.min())

    def parts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # A wild step of the optimiser must not overflow: e^50 is far from any loss.
        power = np.exp(np.clip(values[0] - values[1] * relative, -50.0, 50.0))
        return power, power + (values[2] if floor else 0.0)

    def residual(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(parts(values)[1]) - target)

    def jacobian(values: np.ndarray) -> np.ndarray:
        power, loss_there = parts(values)
        columns = [power / loss_there, -relative * power / loss_there]
        if floor:
            columns.append(1 / loss_there)
        return np.stack(columns, axis=1)

    first = [np.log(start.coefficient), np.clip(start.gamma, *GAMMA_BOUNDS)]
    low, high = [-np.inf, GAMMA_BOUNDS[0]], [np.inf, GAMMA_BOUNDS[1]]
    if floor:
        first.append(min(max(start.irreducible, 1e-9), 0.99 * ceiling))
        low, high = [*low, 0.0], [*high, ceiling]
    found = least_squares(
        residual,
        first,
        jac=jacobian,
        bounds=(low, high),
        loss="huber",
        f_scale=HUBER_DELTA,
        x_scale="jac",
    )
    irreducible = float(found.x[2]) if floor else 0.0
    law = ComputeLaw(irreducible, float(np.exp(found.x[0])), float(found.x[1]), start.scale)
    return _Solution(law, float(found.cost))


def _warnings(law: ComputeLaw, budgets: int, floor: bool) -> tuple[str, ...]:
    said = []
    if not floor:
        said.append(
            f"{budgets} budgets cannot tell an irreducible loss: the curve is a pure power law "
            "K C^-gamma and must not be extrapolated"
        )
    elif law.irreducible < 1e-3 * law.coefficient:
        said.append("the irreducible loss sits on its bound 0: the data do not show a floor")
    if not GAMMA_BOUNDS[0] * 1.01 < law.gamma < GAMMA_BOUNDS[1] * 0.99:
        said.append("the exponent sits on its bound: the data do not decide it")
    return tuple(said)
