"""One IsoFLOP profile: the runs of a budget, and the minimum of their loss over log size.

Shapes: n runs of a budget, K resampled profiles of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from analysis.profiles.budgets import WIDEST, numbered_groups
from analysis.profiles.method import Method

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST_SIZES = 4  # one more than a parabola has coefficients
# Sizes closer than this are one size with their mean loss: an interpolant through both would follow
# the noise between them.
SAME_SIZE = np.log(1.02)
NEAR = np.log(2.0)  # chosen: sizes that are near the lowest one, besides the two on each side
# Runs of a budget whose compute differs by less are taken as equal, as published analyses do:
# losses would move by less than runs' noise.
UNEVEN = np.log(1.1)
# Runs that stop a step early, or go a step further, are nearer to their budget's compute.
OTHER_CONVENTION = np.log(WIDEST)
SAME_X = 1e-9  # of logs: rounding
ROUNDING = 1e-12  # relative: losses that differ by less are equal
AKIMA_GRID = 801  # chosen: points of the interpolant, of which the lowest is taken


@dataclass(frozen=True)
class Profile:
    """The runs of one budget of `compute` FLOPs.

    log_c: log of each run's compute over the budget's. size: each run's size, numbered from the
    smallest. run: its label, where one is known.
    """

    compute: float
    log_n: Array
    log_d: Array
    log_c: Array
    loss: Array
    size: NDArray[np.int64]
    run: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def sizes(self) -> int:
        """How many different sizes it has."""
        return int(self.size.max()) + 1

    def subset(self, mask: Mask) -> Profile:
        """Some of the runs; sizes keep their numbers."""
        return Profile(
            self.compute,
            self.log_n[mask],
            self.log_d[mask],
            self.log_c[mask],
            self.loss[mask],
            self.size[mask],
            None if self.run is None else self.run[mask],
        )

    def means_by_size(self, values: Array) -> Array:
        """Mean over each size's runs of values (..., n): (..., sizes)."""
        member = self.size[:, None] == np.unique(self.size)
        return np.asarray(values @ (member / member.sum(0)))


def profiles_of(points: pd.DataFrame) -> tuple[Profile, ...]:
    """The profile of every budget, from small to large.

    Columns: budget (its FLOPs), parameters, tokens, compute, loss, perhaps run. Runs that all used
    nearly the same compute count as having used its mean; where that is far from the budget's C, it
    is counted by another convention, and only how they differ counts. Rows of one run and
    size at a budget are evaluations of it and count once, by their mean; a label that covers
    several sizes (a seed) counts once for each of them.
    """
    return tuple(_profile(float(c), rows) for c, rows in points.groupby("budget", sort=True))


def _profile(compute: float, rows: pd.DataFrame) -> Profile:
    columns = ("parameters", "tokens", "compute")
    logs = {name: np.log(rows[name].to_numpy(float)) for name in columns}
    frame = pd.DataFrame(logs | {"loss": rows["loss"].to_numpy(float)})
    frame["size"] = numbered_groups(logs["parameters"], SAME_SIZE)
    if "run" in rows:
        frame["run"] = rows["run"].astype(str).to_numpy(object)
        frame = frame.groupby(["run", "size"], sort=False, as_index=False).mean()
    log_c = frame["compute"].to_numpy(float) - np.log(compute)
    mean = log_c.mean()
    if np.ptp(log_c) < UNEVEN:
        log_c = np.full_like(log_c, mean)
    if abs(mean) > OTHER_CONVENTION:
        log_c = log_c - mean
    return Profile(
        compute,
        frame["parameters"].to_numpy(float),
        frame["tokens"].to_numpy(float) - log_c,  # at the budget's compute
        log_c,
        frame["loss"].to_numpy(float),
        frame["size"].to_numpy(np.int64),
        _run_labels(frame) if "run" in rows else None,
    )


def _run_labels(frame: pd.DataFrame) -> NDArray[np.object_]:
    """Labels that tell the sizes of one label apart: a run has one size at all budgets."""
    pairs = zip(frame["run"], frame["parameters"], strict=True)
    return np.array([f"{label} {log_n:.9f}" for label, log_n in pairs], dtype=object)


@dataclass(frozen=True)
class Minimum:
    """Log size (K,), log tokens (K,) and loss (K,) at the minimum of each resampled profile; NaN
    where there is none. curvature: d^2 loss / d (log N)^2 (NaN of an Akima interpolant)."""

    log_n: Array
    log_d: Array
    loss: Array
    curvature: Array


def minimum(
    profile: Profile, method: Method, loss_Kn: Array, weight_Kn: Array | None = None
) -> Minimum:
    """Minima of the profile with these losses; weights count a run more or less often.

    Size and tokens each come from the profile in their own logarithm: with FLOPs that are not
    exactly 6 N D, D* is not what N* leaves of the budget.
    """
    if method == "akima":
        log_n, lowest = akima_minimum(profile.log_n, loss_Kn)
        log_d, _ = akima_minimum(profile.log_d, loss_Kn)
        return Minimum(log_n, log_d, lowest, np.full_like(log_n, np.nan))
    log_n, lowest, curvature = parabola_minimum(profile.log_n, loss_Kn, weight_Kn)
    log_d, _, _ = parabola_minimum(profile.log_d, loss_Kn, weight_Kn)
    return Minimum(log_n, log_d, lowest, curvature)


def parabola_minimum(
    x_n: Array, loss_Kn: Array, weight_Kn: Array | None = None
) -> tuple[Array, Array, Array]:
    """Vertices of the least-squares parabolas, losses there, and curvatures, (K,) each.

    NaN where a parabola is not convex or not determined.
    """
    centre, scale = x_n.mean(), float(np.ptp(x_n))
    if scale < SAME_X:
        nothing = np.full(len(loss_Kn), np.nan)
        return nothing, nothing, nothing
    x = (x_n - centre) / scale
    design_nP = np.stack([np.ones_like(x), x, x**2], 1)
    if weight_Kn is None:
        level, slope, bend = (loss_Kn @ np.linalg.pinv(design_nP).T).T
    else:
        gram = np.einsum("kn,np,nq->kpq", weight_Kn, design_nP, design_nP)
        singular = np.linalg.cond(gram) > 1e12
        gram[singular] = np.eye(3)
        right = (weight_Kn * loss_Kn) @ design_nP
        level, slope, bend = np.linalg.solve(gram, right[..., None])[..., 0].T
        bend = np.where(singular, np.nan, bend)
    bend = np.where(bend > 0, bend, np.nan)
    vertex = -slope / (2 * bend)
    return vertex * scale + centre, level - slope**2 / (4 * bend), 2 * bend / scale**2


def akima_minimum(x_n: Array, loss_Kn: Array) -> tuple[Array, Array]:
    """Lowest points of the Akima interpolants through the mean loss of nearly equal x, (K,) each.

    NaN where the lowest point is the first or the last.
    """
    number = numbered_groups(x_n, SAME_SIZE)
    member = number[:, None] == np.arange(number.max() + 1)
    share = member / member.sum(0)
    x, means = x_n @ share, loss_Kn @ share
    if len(x) < 2:
        nothing = np.full(len(loss_Kn), np.nan)
        return nothing, nothing
    grid = np.linspace(x[0], x[-1], AKIMA_GRID)
    curve = Akima1DInterpolator(x, means, axis=1)(grid)
    index = curve.argmin(1)
    inside = (index > 0) & (index < AKIMA_GRID - 1)
    lowest = np.take_along_axis(curve, index[:, None], 1)[:, 0]
    return np.where(inside, grid[index], np.nan), np.where(inside, lowest, np.nan)


def why_no_minimum(profile: Profile, method: Method, found: Minimum) -> str | None:
    """Why this minimum (K = 1) of a profile is not to be believed, or None."""
    log_n, lowest = float(found.log_n[0]), float(found.loss[0])
    edge = "the minimum is at or beyond the edge of the profile"
    if np.ptp(profile.loss) <= ROUNDING * float(np.abs(profile.loss).max()):
        return "the loss is the same at all sizes: it has no minimum"
    if not np.isfinite(log_n):
        return edge if method == "akima" else "the profile is not convex: it has no minimum"
    x, means = profile.means_by_size(profile.log_n), profile.means_by_size(profile.loss)
    if not x[0] < log_n < x[-1]:
        return edge
    # No smooth curve falls further below the lowest size than half of what it rises by near that (a
    # parabola: an eighth).
    at = int(means.argmin())
    near = np.abs(x - x[at]) <= NEAR
    near[max(0, at - 2) : at + 3] = True
    rise = float(means[near].max() - means[at])
    if lowest < means[at] - rise / 2:
        return (
            f"the loss at the minimum ({lowest:.4g}) is far below the lowest that was measured "
            f"({means[at]:.4g})"
        )
    return None


def has_tokens(profile: Profile, found: Minimum) -> bool:
    """Whether the loss has a minimum (K = 1) inside the profile's tokens, too."""
    return bool(profile.log_d.min() < found.log_d[0] < profile.log_d.max())


def carried_to_budget(profile: Profile, slope: float, curvature: float, best: float) -> Profile:
    """The losses that the runs would have at the budget's compute, their size unchanged.

    slope: fall of the loss per log compute at the best size (that of the optima themselves, by the
    envelope theorem); curvature: of the profile, of which size and tokens are taken to have half
    each; best: log of the best size.
    """
    falls = slope + curvature / 2 * (profile.log_n - best)
    at_budget = profile.loss + falls * profile.log_c - curvature / 4 * profile.log_c**2
    return replace(profile, loss=at_budget)
