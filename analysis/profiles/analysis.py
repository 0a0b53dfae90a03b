"""A whole IsoFLOP analysis: the best size at every budget, and how size, tokens and loss grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.profiles.method import Method
from analysis.profiles.profile import (
    LEAST_SIZES,
    Array,
    Mask,
    Profile,
    carried_to_budget,
    has_tokens,
    minimum,
    profiles_of,
    why_no_minimum,
)
from analysis.profiles.window import Misfit, choose_window

SAME_COMPUTE = 1e-6  # relative: rounding
NOT_ONE_BUDGET = np.log(3.0)  # chosen: beyond this the correction to one compute is no longer small
CORRECTIONS = 4  # passes after which slopes are the same to five digits


@dataclass(frozen=True)
class Optimum:
    """The minimum of one profile: N* and D* with the loss there. `trouble` says why it is none;
    tokens are NaN where the loss has no minimum over them alone.

    runs, sizes: of the window between the sizes `smallest` and `largest` that was fitted. position:
    of the minimum between the profile's first (0) and last size (1), in log size. residual_sd:
    relative, degrees of freedom taken out (NaN of an interpolant).
    """

    compute: float
    parameters: float
    tokens: float
    loss: float
    trouble: str | None = None
    runs: int = 0
    sizes: int = 0
    smallest: float = np.nan
    largest: float = np.nan
    position: float = np.nan
    residual_sd: float = np.nan


@dataclass(frozen=True)
class PowerFit:
    """y = coefficient (C / scale)^exponent, the least-squares line of the logs."""

    coefficient: float
    exponent: float
    scale: float

    def at(self, compute: Array) -> Array:
        """y at these C."""
        return np.asarray(self.coefficient * (compute / self.scale) ** self.exponent)


@dataclass(frozen=True)
class IsoFLOP:
    """Optima by budget, and their growth with compute (None with fewer than two good optima; of
    tokens also where a budget has no D*).

    fitted: the runs that each good optimum rests on, losses carried to the budget's compute;
    windowed: those within the window of a parabola, which are the same unless the method is an
    interpolant. window: factor around the minimum that the sizes lie in (infinite: whole profiles).
    misfit: of parabolas there. spread: lowest and highest compute of a run over its
    budget's C.
    """

    method: Method
    optima: tuple[Optimum, ...]
    size: PowerFit | None
    tokens: PowerFit | None
    loss: PowerFit | None
    fitted: tuple[Profile, ...]
    windowed: tuple[Profile, ...]
    window: float
    misfit: Misfit | None
    spread: tuple[float, float]

    @property
    def good(self) -> list[Optimum]:
        """The optima that are minima inside their points."""
        return [optimum for optimum in self.optima if optimum.trouble is None]


def isoflop(points: pd.DataFrame, method: Method = "parabola") -> IsoFLOP:
    """Fit every budget's profile. Columns: budget, parameters, tokens, compute, loss, perhaps run.

    The budget is its compute C in FLOPs. Runs that used more or less have their losses carried to C
    along the slope of the analysis itself.
    """
    measured = profiles_of(points)
    times = (points["compute"] / points["budget"]).to_numpy(float)
    spread = float(times.min()), float(times.max())
    if max(float(np.abs(profile.log_c).max()) for profile in measured) < SAME_COMPUTE:
        return _analysis(measured, method, spread)
    log_c = np.concatenate([p.log_c + np.log(p.compute) for p in measured])
    log_loss = np.log(np.concatenate([p.loss for p in measured]))
    fall = max(0.0, -float(np.polyfit(log_c, log_loss, 1)[0])) if np.ptp(log_c) > 0 else 0.0
    carried = tuple(carried_to_budget(p, fall * float(p.loss.mean()), 0.0, 0.0) for p in measured)
    for _ in range(CORRECTIONS):
        found = _analysis(carried, "parabola", spread)
        carried = _carried(measured, carried, found, fall=fall)
    return _analysis(carried, method, spread)


def _carried(
    measured: Sequence[Profile], before: Sequence[Profile], found: IsoFLOP, *, fall: float
) -> tuple[Profile, ...]:
    """Losses at the budgets' compute by the slope and curvature of an analysis of those before."""
    falls = _falls(found, fall)
    carried = []
    for profile, last, optimum in zip(measured, before, found.optima, strict=True):
        fall = falls(profile.compute)
        if optimum.trouble is not None:
            carried.append(carried_to_budget(profile, fall * float(last.loss.mean()), 0.0, 0.0))
            continue
        rows = last.subset(_between(last, optimum))
        bend = float(minimum(rows, "parabola", rows.loss[None]).curvature[0])
        best = float(np.log(optimum.parameters))
        carried.append(carried_to_budget(profile, fall * optimum.loss, bend, best))
    return tuple(carried)


def _falls(found: IsoFLOP, otherwise: float) -> Callable[[float], float]:
    """Local exponent of the optima's loss by compute: it falls as the loss nears its floor."""
    good = found.good
    if len(good) < 2:
        return lambda compute: otherwise
    x, y = np.log([o.compute for o in good]), np.log([o.loss for o in good])
    centre = x.mean()
    slope = np.polyder(np.polyfit(x - centre, y, 2 if len(good) > 3 else 1))
    return lambda compute: max(0.0, -float(np.polyval(slope, np.log(compute) - centre)))


def _between(profile: Profile, optimum: Optimum) -> Mask:
    low, high = np.log(optimum.smallest) - 1e-9, np.log(optimum.largest) + 1e-9
    return (profile.log_n >= low) & (profile.log_n <= high)


def _analysis(profiles: Sequence[Profile], method: Method, spread: tuple[float, float]) -> IsoFLOP:
    usable = [_unusable(profile) is None for profile in profiles]
    chosen = [profile for profile, use in zip(profiles, usable, strict=True) if use]
    window = choose_window(chosen)
    masks = iter(window.masks)
    optima, fitted, windowed = [], [], []
    for profile, use in zip(profiles, usable, strict=True):
        near = profile.subset(next(masks)) if use else profile
        rows = profile if method == "akima" else near  # an interpolant follows any width
        optimum = _optimum(profile, rows, method)
        optima.append(optimum)
        if optimum.trouble is None:
            fitted.append(rows)
            windowed.append(near)
    return IsoFLOP(
        method,
        tuple(optima),
        *_growth([o for o in optima if o.trouble is None]),
        tuple(fitted),
        tuple(windowed),
        window.factor,
        window.misfit,
        spread,
    )


def _unusable(profile: Profile) -> str | None:
    """Why the runs of a budget are no profile, or None."""
    if profile.sizes < LEAST_SIZES:
        what = "1 size" if profile.sizes == 1 else f"{profile.sizes} sizes"
        return f"{what} at a budget; a profile needs {LEAST_SIZES}"
    if np.ptp(profile.log_c) > NOT_ONE_BUDGET:
        times = float(np.exp(np.ptp(profile.log_c)))
        return f"the compute of its runs spans a factor of {times:.3g}: they are not one budget"
    return None


def _optimum(profile: Profile, rows: Profile, method: Method) -> Optimum:
    trouble = _unusable(profile)
    if trouble is not None:
        return Optimum(profile.compute, np.nan, np.nan, np.nan, trouble, len(rows), profile.sizes)
    found = minimum(rows, method, rows.loss[None])
    return Optimum(
        profile.compute,
        float(np.exp(found.log_n[0])),
        float(np.exp(found.log_d[0])) if has_tokens(profile, found) else np.nan,
        float(found.loss[0]),
        why_no_minimum(profile, method, found),
        len(rows),
        len(np.unique(rows.size)),
        float(np.exp(rows.log_n.min())),
        float(np.exp(rows.log_n.max())),
        float((found.log_n[0] - profile.log_n.min()) / np.ptp(profile.log_n)),
        np.nan if method == "akima" else relative_sd([rows]),
    )


def fitted_loss(profile: Profile) -> Array:
    """The parabola in log N at the profile's runs, (n,)."""
    centred = profile.log_n - profile.log_n.mean()
    return np.asarray(np.polyval(np.polyfit(centred, profile.loss, 2), centred))


def relative_sd(profiles: Sequence[Profile]) -> float:
    """Standard deviation of the relative residuals of the parabolas; NaN without degrees of
    freedom."""
    squares = sum(float(((p.loss / fitted_loss(p) - 1) ** 2).sum()) for p in profiles)
    freedom = sum(len(profile) - 3 for profile in profiles)
    return float(np.sqrt(squares / freedom)) if freedom > 0 else float("nan")


def power_fit(compute: Array, values: Array) -> PowerFit:
    """The power law through these values (n,), by least squares of logs."""
    scale = float(np.exp(np.log(compute).mean()))
    exponent, level = np.polyfit(np.log(compute / scale), np.log(values), 1)
    return PowerFit(float(np.exp(level)), float(exponent), scale)


def _growth(good: Sequence[Optimum]) -> tuple[PowerFit | None, PowerFit | None, PowerFit | None]:
    if len(good) < 2:
        return None, None, None
    compute = np.array([optimum.compute for optimum in good])
    values = {
        name: np.array([getattr(optimum, name) for optimum in good])
        for name in ("parameters", "tokens", "loss")
    }
    return (
        power_fit(compute, values["parameters"]),
        power_fit(compute, values["tokens"]) if np.isfinite(values["tokens"]).all() else None,
        power_fit(compute, values["loss"]),
    )
