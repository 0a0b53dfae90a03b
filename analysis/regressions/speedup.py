"""One change against a baseline at a few gates of compute: how much less compute it needs.

Both follow L = E + K C^-gamma with E known: log (L - E) falls along two parallel lines in log C,
whose distance along log C is the log of the effective speed-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import f as f_distribution
from scipy.stats import t as student_t

from analysis.fitting.bootstrap import LEVEL
from analysis.profiles.budgets import CLEAR_GAP, WIDEST, numbered_groups
from cola.errors import FitError

Array = NDArray[np.float64]
LEAST_GATES = 2
SURELY = 0.05  # chance of so large a difference, were there none, below which it is named


@dataclass(frozen=True)
class Side:
    """Runs of one side: logs of compute and of the loss above E."""

    name: str
    compute: Array
    above: Array
    rate: float | None  # geometric mean of FLOPs a second

    @property
    def gate(self) -> NDArray[np.int64]:
        """The number of each run's gate: runs of nearly the same compute, as in budgets."""
        return numbered_groups(self.compute, float(np.log(WIDEST)), float(np.log(CLEAR_GAP)))

    @property
    def gates(self) -> int:
        """Different amounts of compute."""
        return len(np.unique(self.gate))


def speedup(
    table: pd.DataFrame,
    floor: float,
    *,
    baseline: str | None = None,
    tokens_a_second: bool = False,
    level: float = LEVEL,
) -> dict[str, Any]:
    """The effective speed-up of the second label over the first (or over `baseline`) with a t
    interval, in time too where `throughput` is known, each gate's own (of the mean of its runs),
    and tests of lack of fit.

    tokens_a_second: what `throughput` counts, of the table's `tokens`; else FLOPs a second.

    Raises:
        FitError: other than two groups, fewer than two gates each, a loss that is not above the
            floor, or losses that do not fall.
    """
    first, second = _sides(table, floor, baseline=baseline, tokens_a_second=tokens_a_second)
    fit = _parallel(first, second, level)
    found: dict[str, Any] = {
        "law": "speedup",
        "formula": f"log(L - {floor:g}) along parallel lines in log C",
        "baseline": first.name,
        "change": second.name,
        "points": len(first.above) + len(second.above),
        "floor": floor,
        "gamma": -fit.slope,
        "speedup": float(np.exp(fit.shift)),
        "interval": fit.interval,
        "degrees_of_freedom": fit.freedom,
        "scatter": fit.scatter,
        "gates": _gates(first, second),
        "lack_of_fit": {"parallel": fit.parallel, "curved": fit.curved},
        "warnings": fit.notes(first, second),
    }
    if first.rate is not None and second.rate is not None:
        ratio = second.rate / first.rate
        found["throughput_ratio"] = ratio
        found["throughput_unit"] = "tokens a second" if tokens_a_second else "FLOPs a second"
        found["speedup_in_time"] = found["speedup"] * ratio
        found["interval_in_time"] = [end * ratio for end in fit.interval]
    return found


def _gates(first: Side, second: Side) -> list[dict[str, float]]:
    """The speed-up at each gate of the change: geometric mean over its runs."""
    base = np.polyfit(first.compute, first.above, 1)
    equal = (second.above - base[1]) / base[0]  # log C at which the baseline reaches each loss
    runs = pd.DataFrame({"c": second.compute, "times": equal - second.compute})
    means = runs.groupby(second.gate).mean()
    counts = np.bincount(second.gate)
    return [
        {"compute": float(np.exp(c)), "speedup": float(np.exp(times)), "runs": int(count)}
        for c, times, count in zip(means["c"], means["times"], counts, strict=True)
    ]


def _sides(
    table: pd.DataFrame, floor: float, *, baseline: str | None, tokens_a_second: bool
) -> tuple[Side, Side]:
    names = sorted(table["group"].unique())
    if len(names) != 2:
        raise FitError(
            f"--speedup compares two groups, the table has {len(names)}: {', '.join(names[:5])}; "
            "keep the rows of two"
        )
    if baseline is not None:
        if baseline not in names:
            raise FitError(f"--baseline {baseline}: the groups are {' and '.join(names)}")
        names.sort(key=lambda name: name != baseline)
    low = table[table["loss"] <= floor]
    if len(low):
        raise FitError(
            f"--pin E={floor:g}: line {low['line'].iloc[0]} has loss {low['loss'].iloc[0]:g}, "
            "which is not above it; pin a smaller floor"
        )
    sides = []
    for name in names:
        rows = table[table["group"] == name]
        side = Side(
            name,
            np.log(rows["compute"].to_numpy(float)),
            np.log(rows["loss"].to_numpy(float) - floor),
            _rate(rows, tokens_a_second=tokens_a_second),
        )
        if side.gates < LEAST_GATES:
            raise FitError(
                f"group {name} has runs at {side.gates} amount of compute; --speedup needs at "
                f"least {LEAST_GATES} gates of each side"
            )
        sides.append(side)
    return sides[0], sides[1]


def _rate(rows: pd.DataFrame, *, tokens_a_second: bool) -> float | None:
    """FLOPs a second; None where the throughput is not known."""
    if "throughput" not in rows:
        return None
    rate = rows["throughput"].to_numpy(float)
    if tokens_a_second:
        rate = rate * rows["compute"].to_numpy(float) / rows["tokens"].to_numpy(float)
    return float(np.exp(np.log(rate).mean()))


@dataclass(frozen=True)
class _Parallel:
    """slope: of log (L - E) in log C. shift: log of the speed-up, with its interval as factors.
    parallel, curved: p of the tests that slopes differ, that lines bend (None: not tested)."""

    slope: float
    shift: float
    interval: list[float]
    freedom: int
    scatter: float
    parallel: float | None
    curved: float | None

    def notes(self, first: Side, second: Side) -> list[str]:
        """What a reader must know before quoting the speed-up."""
        notes = []
        if not self.interval:
            notes.append(
                "no interval: three parameters and as few runs; add gates or seeds"
                if self.freedom < 1
                else "no interval: the slope is not told from none"
            )
        for chance, text in (
            (self.parallel, "the two lose at different rates: the speed-up depends on compute"),
            (self.curved, "the lines bend: the floor E does not suit these losses"),
        ):
            if chance is not None and chance < SURELY:
                notes.append(f"lack of fit: {text} (p = {chance:.2g}); see each gate's own")
        tests = (self.parallel, self.curved)
        if all(chance is None for chance in tests):
            notes.append("lack of fit is not tested: too few runs beyond the parameters")
        low = max(first.compute.min(), second.compute.min())
        high = min(first.compute.max(), second.compute.max())
        if high <= low:
            notes.append("the two sides have no compute in common: the speed-up extrapolates")
        return notes


def _parallel(first: Side, second: Side, level: float) -> _Parallel:
    x = np.concatenate([first.compute, second.compute])
    y = np.concatenate([first.above, second.above])
    is_second = np.repeat([0.0, 1.0], [len(first.above), len(second.above)])
    centre = x.mean()
    design = np.column_stack([np.ones(len(x)), x - centre, is_second])
    theta, residual = _solved(design, y)
    slope, drop = float(theta[1]), float(theta[2])
    if slope >= 0:
        raise FitError("the loss does not fall with compute: there is no speed-up to speak of")
    freedom = len(y) - 3
    squares = float((residual**2).sum())
    scatter = float(np.sqrt(squares / freedom)) if freedom else float("nan")
    interval = _fieller(design, drop, slope, scatter=scatter, freedom=freedom, level=level)
    crossed = np.column_stack([design, is_second * (x - centre)])
    bent = np.column_stack([crossed, (x - centre) ** 2])
    return _Parallel(
        slope,
        drop / slope,
        interval,
        freedom,
        scatter,
        parallel=_chance(y, design, crossed),
        curved=_chance(y, crossed, bent) if min(first.gates, second.gates) > 2 else None,
    )


def _solved(design: Array, y: Array) -> tuple[Array, Array]:
    theta = np.linalg.lstsq(design, y, rcond=None)[0]
    return np.asarray(theta, float), np.asarray(y - design @ theta, float)


def _fieller(
    design: Array, drop: float, slope: float, *, scatter: float, freedom: int, level: float
) -> list[float]:
    """Interval of exp(drop / slope) by Fieller's theorem; empty where it is not bounded."""
    if freedom < 1:
        return []
    covariance = scatter**2 * np.linalg.inv(design.T @ design)
    t = float(student_t.ppf((1 + level) / 2, freedom))
    v_drop, v_slope, v_both = covariance[2, 2], covariance[1, 1], covariance[1, 2]
    a = slope**2 - t**2 * v_slope
    b = drop * slope - t**2 * v_both
    c = drop**2 - t**2 * v_drop
    inside = b**2 - a * c
    if a <= 0 or inside < 0:
        return []
    ends = [(b + sign * np.sqrt(inside)) / a for sign in (-1, 1)]
    return [float(np.exp(end)) for end in ends]


def _chance(y: Array, small: Array, large: Array) -> float | None:
    """p of the F test that the columns of `large` beyond `small` are not needed."""
    freedom = len(y) - large.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(large) < large.shape[1]:
        return None
    less, rest = (float((_solved(design, y)[1] ** 2).sum()) for design in (small, large))
    ratio = (less - rest) / (large.shape[1] - small.shape[1]) / max(rest / freedom, 1e-300)
    return float(f_distribution.sf(ratio, large.shape[1] - small.shape[1], freedom))
