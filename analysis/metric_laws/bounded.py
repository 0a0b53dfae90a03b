"""Laws of quantities with a floor and a ceiling: a sigmoid in log compute.

y = chance + (ceiling - chance) / (1 + (C / C_half)^-b): at little compute a model guesses, and the
odds of what it has gained over what it lacks to the ceiling grow as C^b. Everything here is a share
of the range, 0 (worst) to 1 (best); `Range` turns a metric into it. Where the items behind a share
are counted its errors are binomial, wider by what repeats scatter beyond that; else they are alike
everywhere, with the scatter of the residuals.

Shapes: B problems, n points, P = 2 or 3 parameters [a, b, (logit of the ceiling)], with
a + b log(C / C0) the logit of the share of the rise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit, logit
from scipy.stats import binom

from analysis.fitting.bootstrap import scatter_factors
from analysis.fitting.frontier import Better
from analysis.fitting.law import Array
from cola.errors import FitError

LEAST_BUDGETS = 3  # chosen: one more than the sigmoid with a known ceiling has parameters
CEILING_NEEDS = 5  # chosen: budgets from which the ceiling can be a parameter
SLOPES = (1e-3, 10.0)  # bounds of b, per factor e of compute
EDGE = 1e-9  # shares are kept this far from 0 and 1 where their variance is computed
ITERATIONS, PATIENCE = 200, 1e-11  # chosen: most steps, and the relative gain that ends them
RAISED = 0.05  # chance of calling a metric raised that guesses at chance, over all budgets


@dataclass(frozen=True)
class Range:
    """Least and largest value of a metric, and which are the better ones."""

    low: float
    high: float
    better: Better = "higher"

    def share(self, value: Array) -> Array:
        """0 at the worst value, 1 at the best."""
        up = (np.asarray(value, float) - self.low) / (self.high - self.low)
        return np.asarray(up if self.better == "higher" else 1 - up)

    def value(self, share: Array) -> Array:
        """The metric at a share of its range."""
        up = np.asarray(share, float)
        up = up if self.better == "higher" else 1 - up
        return np.asarray(self.low + (self.high - self.low) * up)


@dataclass(frozen=True)
class Shares:
    """n measurements as shares of a range, their compute, the share that guessing has, and how many
    items each rests on (None: not known)."""

    share: Array
    compute: Array
    chance: float
    items: Array | None = None

    @property
    def logs(self) -> Array:
        """log C in units of the geometric mean."""
        logs = np.log(self.compute)
        return np.asarray(logs - logs.mean())


@dataclass(frozen=True)
class BoundedCurve:
    """A fitted sigmoid with its refits, as a curve in the metric's own unit (`ScalingCurve`).

    theta: (1 + K, P). dispersion: factor on binomial variances, or the variance itself where items
    are not counted.
    """

    range: Range
    points: Shares
    theta: Array
    dispersion: float
    notes: tuple[str, ...] = field(default=())

    @property
    def better(self) -> Better:
        """See `ScalingCurve`."""
        return self.range.better

    @property
    def span(self) -> tuple[float, float]:
        """See `ScalingCurve`."""
        return float(self.points.compute.min()), float(self.points.compute.max())

    def values(self, compute: Array) -> Array:
        """See `ScalingCurve`."""
        return self.range.value(self._shares(compute))

    def compute_for(self, value: float) -> Array:
        """See `ScalingCurve`: infinite where the ceiling lies below, 0 at chance and below it."""
        share, ceiling = float(self.range.share(np.array(value))), ceilings(self.theta, self.points)
        risen = (share - self.points.chance) / (ceiling - self.points.chance)
        with np.errstate(over="ignore"):
            logs = (logit(np.clip(risen, 0.0, 1.0)) - self.theta[:, 0]) / self.theta[:, 1]
            return np.asarray(self._unit * np.exp(logs))

    def parameters(self) -> dict[str, Array]:
        """(1 + K,) by name: `exponent` b of the odds, `half` (C at half of the rise), `ceiling` in
        the metric's unit, `per_decade` (the steepest rise, in the metric's unit)."""
        ceiling, b = ceilings(self.theta, self.points), self.theta[:, 1]
        rise = (ceiling - self.points.chance) * b * np.log(10) / 4
        sign = 1 if self.better == "higher" else -1
        with np.errstate(over="ignore"):
            half = self._unit * np.exp(-self.theta[:, 0] / b)
        return {
            "exponent": b,
            "half": half,
            "ceiling": self.range.value(ceiling),
            "per_decade": sign * rise * (self.range.high - self.range.low),
        }

    @property
    def has_ceiling(self) -> bool:
        """Whether the ceiling was fitted; else it is the best value of the range."""
        return self.theta.shape[1] == 3

    def new_runs(self, compute: Array, seed: int) -> Array:
        """(K, n): measurements of new runs at these C, with as many items as the median run."""
        shares, generator = self._shares(compute)[1:], np.random.default_rng(seed)
        items = self.points.items
        count = None if items is None else np.full(len(compute), np.median(items))
        drawn = _measured(shares, count, self.dispersion, generator=generator, freedom=self.freedom)
        return self.range.value(np.clip(drawn, 0.0, 1.0))

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the residuals."""
        return max(1, len(self.points.share) - self.theta.shape[1])

    @property
    def _unit(self) -> float:
        return float(np.exp(np.log(self.points.compute).mean()))

    def _shares(self, compute: Array) -> Array:
        return expected(self.theta, np.log(compute / self._unit), self.points.chance)


def ceilings(theta_BP: Array, points: Shares) -> Array:
    """(B,): share at the ceiling, 1 where it is no parameter."""
    return np.asarray(points.chance + (1 - points.chance) * _tops(theta_BP)[:, 0])


def expected(theta_BP: Array, x: Array, chance: float) -> Array:
    """(B, n): shares at these logs of compute (n,)."""
    scale = (1 - chance) * _tops(theta_BP)
    return np.asarray(chance + scale * expit(theta_BP[:, :1] + theta_BP[:, 1:2] * x))


def _tops(theta_BP: Array) -> Array:
    """(B, 1): the ceiling as a share of the room above chance."""
    if theta_BP.shape[1] == 3:
        return np.asarray(expit(theta_BP[:, 2:]))
    return np.ones((len(theta_BP), 1))


def _curve(theta_BP: Array, x: Array, chance: float) -> tuple[Array, Array]:
    """Shares (B, n) and their gradient (B, n, P)."""
    rise, top = expit(theta_BP[:, :1] + theta_BP[:, 1:2] * x), _tops(theta_BP)
    scale = (1 - chance) * top
    slope = scale * rise * (1 - rise)
    columns = [slope, slope * x]
    if theta_BP.shape[1] == 3:
        columns.append(scale * (1 - top) * rise)
    return chance + scale * rise, np.stack(columns, axis=-1)


def fit_bounded(points: Shares, range_: Range, *, samples: int, seed: int) -> BoundedCurve:
    """The sigmoid of most likelihood with refits of simulated measurements.

    The ceiling is the range's best value; from five budgets on it is a parameter where the data ask
    for it (the corrected Akaike criterion).

    Raises:
        FitError: too few budgets, values outside the range, none above chance, or no rise.
    """
    check(points, range_)
    theta = solve(points, points.share[None], _starts(points))
    notes: tuple[str, ...] = ()
    if len(np.unique(np.round(np.log(points.compute), 2))) >= CEILING_NEEDS:
        freed = solve(points, points.share[None], _starts(points, ceiling=True))
        scatter = _dispersion(points, freed)
        if _criterion(points, freed, scatter) < _criterion(points, theta, scatter):
            theta = freed
    if theta[0, 1] <= SLOPES[0] * 1.001:
        raise FitError("does not improve with compute: there is no curve to fit")
    if theta[0, 1] >= SLOPES[1] * 0.999:
        notes += ("rises faster than the budgets resolve: the exponent is a lower bound",)
    dispersion = _dispersion(points, theta)
    generator, count = np.random.default_rng(seed), points.items
    shares = np.repeat(expected(theta, points.logs, points.chance), samples, axis=0)
    freedom = max(1, len(points.share) - theta.shape[1])
    drawn = _measured(shares, count, dispersion, generator=generator, freedom=freedom)
    refits = solve(points, np.clip(drawn, 0.0, 1.0), np.repeat(theta, samples, axis=0))
    return BoundedCurve(range_, points, np.concatenate([theta, refits]), dispersion, notes)


def check(points: Shares, range_: Range) -> None:
    """Check that the measurements can carry the law.

    Raises:
        FitError: with what they lack.
    """
    budgets = len(np.unique(np.round(np.log(points.compute), 2)))
    if budgets < LEAST_BUDGETS:
        raise FitError(f"{budgets} budgets cannot carry a sigmoid; {LEAST_BUDGETS} are the least")
    outside = points.share[~((points.share >= 0) & (points.share <= 1))]
    if len(outside):
        value = float(range_.value(outside[:1])[0])
        raise FitError(f"{value:g} lies outside of the range {range_.low:g} to {range_.high:g}")
    if not 0 <= points.chance < 1:
        raise FitError(f"chance {range_.value(np.array(points.chance)):g} leaves no room above it")
    if not _above_chance(points):
        raise FitError(f"no run is better than chance ({range_.value(np.array(points.chance)):g})")


def _above_chance(points: Shares) -> bool:
    """Whether any budget is above chance by more than its items allow for."""
    if points.items is None:
        return bool((points.share > points.chance).any())
    items = np.maximum(1, np.round(points.items))
    right = np.round(points.share * items)
    tail = binom.sf(right - 1, items, points.chance)
    return bool((tail < RAISED / len(items)).any())


def _starts(points: Shares, *, ceiling: bool = False) -> Array:
    """Slopes from slow to fast, the middle of the rise where the measurements have it."""
    rows = []
    for b in (0.1, 0.3, 1.0, 3.0):
        for top in (0.5, 2.0) if ceiling else (np.inf,):
            room = (1 - points.chance) * float(expit(top))
            risen = np.clip((points.share - points.chance) / room, 0.01, 0.99)
            a = float(np.mean(logit(risen) - b * points.logs))
            rows.append([a, b, top] if ceiling else [a, b])
    return np.array(rows)


def solve(points: Shares, share_Bn: Array, start_BP: Array) -> Array:
    """(B, P): most likely parameters of each row of shares, from its own start; of one row, the
    best over all starts.

    Fisher's scoring with Levenberg's damping, for all rows at once.
    """
    one = len(share_Bn) == 1
    shares = np.repeat(share_Bn, len(start_BP), axis=0) if one else share_Bn
    low = np.array([-60.0, SLOPES[0], -10.0])[: start_BP.shape[1]]
    high = np.array([60.0, SLOPES[1], 10.0])[: start_BP.shape[1]]
    theta = np.clip(start_BP, low, high)
    value, damping = _objective(points, shares, theta), np.full(len(theta), 1e-3)
    active = np.arange(len(theta))
    for _ in range(ITERATIONS):
        if not len(active):
            break
        step = _step(
            points, shares[active], theta[active], damping=damping[active], box=(low, high)
        )
        candidate = np.clip(theta[active] + step, low, high)
        found = _objective(points, shares[active], candidate)
        better = found < value[active]
        gain = np.where(better, value[active] - found, 0.0)
        moved = active[better]
        theta[moved], value[moved] = candidate[better], found[better]
        small = gain <= PATIENCE * np.maximum(np.abs(value[active]), 1e-12)
        damping[active] = np.clip(damping[active] * np.where(better, 0.2, 5.0), 1e-9, 1e9)
        active = active[~(small & (better | (damping[active] > 1e6)))]
    return theta[[int(value.argmin())]] if one else theta


def _step(
    points: Shares, share: Array, theta: Array, *, damping: Array, box: tuple[Array, Array]
) -> Array:
    found, slope = _curve(theta, points.logs, points.chance)
    weight = _weights(points, found)
    gradient = np.einsum("bn,bnp->bp", weight * (share - found), slope)
    hessian = (slope * weight[..., None]).transpose(0, 2, 1) @ slope
    held = ((theta <= box[0]) & (gradient < 0)) | ((theta >= box[1]) & (gradient > 0))
    hessian[held[:, :, None] | held[:, None, :]] = 0.0
    diagonal = np.einsum("bpp->bp", hessian)
    diagonal += damping[:, None] * diagonal + 1e-9 * diagonal.max(1, keepdims=True) + held + 1e-12
    right = np.where(held, 0.0, gradient)
    step = np.linalg.solve(hessian, right[..., None])[..., 0]
    return np.clip(step, -3.0, 3.0)


def _weights(points: Shares, found: Array) -> Array:
    if points.items is None:
        return np.ones_like(found)
    inside = np.clip(found, EDGE, 1 - EDGE)
    return points.items / (inside * (1 - inside))


def _objective(points: Shares, share: Array, theta: Array) -> Array:
    """(B,): minus the log of the binomial likelihood, or half the sum of squares."""
    found = expected(theta, points.logs, points.chance)
    if points.items is None:
        return np.asarray(0.5 * ((share - found) ** 2).sum(1))
    inside = np.clip(found, EDGE, 1 - EDGE)
    logs = share * np.log(inside) + (1 - share) * np.log1p(-inside)
    return np.asarray(-(points.items * logs).sum(1))


def _dispersion(points: Shares, theta: Array) -> float:
    """Pearson's factor on binomial variances, at least 1; or the residuals' variance."""
    found = expected(theta, points.logs, points.chance)
    squares = (_weights(points, found) * (points.share - found) ** 2).sum()
    scatter = float(squares / max(1, len(points.share) - theta.shape[1]))
    return scatter if points.items is None else max(1.0, scatter)


def _criterion(points: Shares, theta: Array, dispersion: float) -> float:
    """Akaike's corrected criterion, of counted items with this dispersion of their variances."""
    count, parameters = len(points.share), theta.shape[1]
    objective = float(_objective(points, points.share[None], theta)[0])
    if points.items is None:
        parameters += 1  # the scatter
        fit = count * float(np.log(max(2 * objective / count, 1e-300)))
    else:
        fit = 2 * objective / dispersion
    spare = count - parameters - 1
    if spare <= 0:
        return float("inf")
    return fit + 2 * parameters + 2 * parameters * (parameters + 1) / spare


def _measured(
    share_Bn: Array,
    items: Array | None,
    dispersion: float,
    *,
    generator: np.random.Generator,
    freedom: int,
) -> Array:
    """Measurements round these shares: beta-binomial where items are counted, else normal with the
    scatter drawn too (Student's t)."""
    if items is None:
        scatter = np.sqrt(dispersion) * scatter_factors(freedom, len(share_Bn), generator)
        return np.asarray(share_Bn + scatter * generator.standard_normal(share_Bn.shape))
    count = np.broadcast_to(np.maximum(2, np.round(items)), share_Bn.shape).astype(int)
    inside = np.clip(share_Bn, EDGE, 1 - EDGE)
    if dispersion > 1:
        common = np.clip((dispersion - 1) / (count - 1), EDGE, 0.99)
        inside = generator.beta(
            inside / common * (1 - common), (1 - inside) / common * (1 - common)
        )
    return generator.binomial(count, np.clip(inside, 0.0, 1.0)) / count


def items_behind(share: Sequence[float] | Array, standard_error: Sequence[float] | Array) -> Array:
    """How many items a share and its standard error (Agresti and Coull's) speak of: what a binomial
    share with that error has. NaN where the error says nothing (0, or more than any count has)."""
    p, squared = np.asarray(share, float), np.asarray(standard_error, float) ** 2
    low, high = np.full(p.shape, 4.0), np.full(p.shape, 1e13)
    for _ in range(120):  # the error falls with the count: halve its logarithm
        total = np.sqrt(low * high)
        middle = p + (2 - 4 * p) / total
        above = middle * (1 - middle) / total > squared
        low, high = np.where(above, total, low), np.where(above, high, total)
    known = (squared > 0) & (squared < 1 / 16)
    return np.where(known, np.sqrt(low * high) - 4, np.nan)
