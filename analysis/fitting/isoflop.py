"""IsoFLOP analyses with their resampling, and two families against each other.

At each budget the loss is a smooth function of log N with one minimum: a parabola near it, or an
Akima interpolant. The minima of all budgets then follow power laws in compute.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import LEVEL, percentiles, resampling_weights
from analysis.fitting.choices import Kind
from analysis.fitting.law import Array
from analysis.profiles.analysis import IsoFLOP, isoflop
from analysis.profiles.method import Method
from analysis.profiles.profile import Profile
from analysis.profiles.refits import IsoFLOPRefits, refit, simulated_losses
from cola.errors import FitError

# Runs of a budget from which drawing them with replacement has 95% intervals that hold 95%;
# with fewer, draws without a minimum or with three sizes are frequent.
ENOUGH_RUNS = 12


def resampling_kind(analysis: IsoFLOP, asked: Kind | None = None) -> Kind:
    """Runs where every budget has enough of them for parabolas, else residuals."""
    least = min((len(profile) for profile in analysis.fitted), default=0)
    several = least >= ENOUGH_RUNS and analysis.method == "parabola"
    return asked or ("runs" if several else "residuals")


def bootstrap_isoflop(
    analysis: IsoFLOP, samples: int, seed: int, *, kind: Kind | None = None
) -> IsoFLOPRefits | None:
    """Resampled analyses; None where there are none: fewer than two optima, or no run beyond the
    parabolas' coefficients.

    `residuals`: losses are drawn about the parabolas with the noise of all budgets. `runs`: runs
    are drawn with replacement within their budget.
    """
    profiles = analysis.fitted
    if len(profiles) < 2 or not samples:
        return None
    if resampling_kind(analysis, kind) == "residuals":
        losses = simulated_losses(analysis, samples, np.random.default_rng(seed))
        return None if losses is None else refit(profiles, analysis.method, losses)
    weights = _weights(profiles, samples, seed)
    if analysis.method == "akima":
        raise FitError(
            "--resample runs needs --minimum parabola: an interpolant has no value where a size is "
            "not drawn; leave --resample out"
        )
    losses = [np.broadcast_to(p.loss, (samples, len(p))) for p in profiles]
    return refit(profiles, analysis.method, losses, weights)


def _weights(profiles: Sequence[Profile], samples: int, seed: int) -> list[Array]:
    """How often each run of each profile is drawn, (samples, n); points of one run together."""
    budget = [number for number, profile in enumerate(profiles) for _ in range(len(profile))]
    run = [
        (number, row) if profile.run is None else str(profile.run[row])
        for number, profile in enumerate(profiles)
        for row in range(len(profile))
    ]
    drawn = resampling_weights(len(budget), samples, seed, strata=budget, clusters=run)
    return np.split(drawn, np.cumsum([len(profile) for profile in profiles])[:-1], axis=1)


def compute_to_reach(compute: Array, log_loss: Array, target: float) -> float:
    """Compute at which optima's losses reach a target (log): linear in logs between budgets.

    Infinite where the target lies below all of them, 0 where above: nothing is extrapolated. NaN
    without losses.
    """
    order = np.argsort(-log_loss)
    losses, logs = log_loss[order], np.log(compute)[order]
    if not np.isfinite(losses).all() or not np.isfinite(target):
        return float("nan")
    if target < losses[-1]:
        return float("inf")
    if target > losses[0]:
        return 0.0
    return float(np.exp(np.interp(-target, -losses, logs)))


def compare_isoflop(
    families: Mapping[str, pd.DataFrame],
    samples: int,
    seed: int,
    *,
    method: Method = "parabola",
    kind: Kind | None = None,
    level: float = LEVEL,
) -> dict[str, dict[str, Any]]:
    """Exponents of two families, their difference and compute multiplier, with intervals.

    Budgets are resampled independently in each family. Keys: the families' names, `difference` (of
    the first's exponent of size from the second's), `multiplier` (see `multiplier`).

    Raises:
        FitError: when a family has fewer than two budgets with a minimum.
    """
    names = tuple(families)
    whole = [isoflop(rows, method) for rows in families.values()]
    for name, analysis in zip(names, whole, strict=True):
        if analysis.size is None:
            raise FitError(f"fewer than two budgets of {name} have a minimum inside")
    # Draws belong to the data, so that names and order change no number.
    refits = [
        bootstrap_isoflop(analysis, samples, data_seed(rows, seed), kind=kind)
        for analysis, rows in zip(whole, families.values(), strict=True)
    ]
    a = [analysis.size.exponent for analysis in whole if analysis.size is not None]
    drawn = [np.zeros(0) if r is None else r.exponent() for r in refits]
    apart = drawn[0] - drawn[1] if all(map(len, drawn)) else np.zeros(0)
    return {
        names[0]: with_interval(a[0], drawn[0], level),
        names[1]: with_interval(a[1], drawn[1], level),
        "difference": with_interval(a[0] - a[1], apart, level),
        "multiplier": multiplier(names, whole, refits, level=level),
    }


def data_seed(rows: pd.DataFrame, seed: int) -> int:
    """A seed of these rows' own, whatever they are called."""
    numbers = np.sort(rows["loss"].to_numpy(float))
    return zlib.crc32(numbers.tobytes()) ^ seed


def with_interval(estimate: float, refits: Array, level: float) -> dict[str, Any]:
    """A number and its interval."""
    return {"estimate": float(estimate), "interval": list(percentiles(refits, level))}


def multiplier(
    names: tuple[str, ...],
    analyses: Sequence[IsoFLOP],
    refits: Sequence[IsoFLOPRefits | None],
    *,
    level: float = LEVEL,
) -> dict[str, Any]:
    """How much more compute the family with the worse best loss needs for that loss: the lowest one
    that both reach.

    Where the other family is below that loss at its smallest budget already, there is a bound
    alone, `more_than`; an interval's end that the budgets do not reach is NaN.
    """
    lowest = [min(optimum.loss for optimum in analysis.good) for analysis in analyses]
    worse = int(np.argmax(lowest))
    top = int(np.argmin([optimum.loss for optimum in analyses[worse].good]))
    target, needs = lowest[worse], analyses[worse].good[top].compute
    other = analyses[1 - worse].good
    compute = np.array([optimum.compute for optimum in other])
    reached = compute_to_reach(compute, np.log([optimum.loss for optimum in other]), np.log(target))
    drawn = _times(needs, top, compute, of=refits[worse], other=refits[1 - worse])
    low, high = _censored_interval(drawn, level)
    more, less = names[worse], names[1 - worse]
    if reached > 0:
        times = needs / reached
        if times < 1:  # the family with the better best loss has it from larger budgets
            more, less, times, (low, high) = less, more, 1 / times, (1 / high, 1 / low)
        found: dict[str, Any] = {"estimate": times, "interval": [low, high], "more_than": None}
        known = (
            "" if np.isnan(low) and np.isnan(high) else f" ({100 * level:g}% {_ends(low, high)})"
        )
        number = f"{times:.3g} times{known}"
    else:
        bound = float(needs / compute.min())
        found = {"estimate": float("nan"), "interval": [low, high], "more_than": bound}
        number = f"more than {bound:.3g} times"
    meaning = f"{more} needs {number} the compute of {less} for a loss of {target:.4g}"
    return found | {"at_loss": target, "more": more, "less": less, "meaning": meaning}


def _times(
    needs: float,
    top: int,
    compute: Array,
    *,
    of: IsoFLOPRefits | None,
    other: IsoFLOPRefits | None,
) -> Array:
    """The multiplier in every pair of refits: infinite or 0 where it is beyond the budgets."""
    if of is None or other is None:
        return np.zeros(0)
    pairs = zip(of.loss[:, top], other.loss, strict=True)
    reached = np.array([compute_to_reach(compute, losses, target) for target, losses in pairs])
    with np.errstate(divide="ignore"):
        return np.asarray(needs / reached)


def _censored_interval(values: Array, level: float) -> tuple[float, float]:
    """Central interval of values some of which are only known to be beyond what was measured."""
    known = values[~np.isnan(values)]
    if not len(known) or len(known) < 0.9 * len(values):
        return float("nan"), float("nan")
    tail = 50 * (1 - level)
    low = float(np.percentile(known, tail, method="lower"))
    high = float(np.percentile(known, 100 - tail, method="higher"))
    return low if 0 < low < np.inf else float("nan"), high if np.isfinite(high) else float("nan")


def _ends(low: float, high: float) -> str:
    if np.isnan(high):
        return f"more than {low:.3g}"
    return f"less than {high:.3g}" if np.isnan(low) else f"{low:.3g} to {high:.3g}"
