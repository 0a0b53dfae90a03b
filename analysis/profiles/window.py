"""How wide a part of each profile its parabola is fitted to.

A loss over log size is steeper on one side, so a parabola over a wide profile has its vertex beside
the minimum, and the more so the less central that is. The rule: all profiles of an analysis are cut
to the sizes within one factor of their minimum, the widest factor at which misfit is no larger than
noise: cubic and quartic terms explain less than half of what the parabolas leave over, or no more
than chance (F test over all budgets). Where the minimum drifts through the profiles, what is left
is the same at every budget and cancels in exponents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.profiles.profile import Array, Mask, Profile, parabola_minimum

FACTORS = (np.inf, 16.0, 11.0, 8.0, 5.6, 4.0, 2.8, 2.0)  # chosen: steps of about sqrt 2
LEAST_IN_WINDOW = 5  # sizes: two more than a parabola has coefficients, so that misfit shows
SIGNIFICANT = 0.05
LARGE_SHARE = 0.5  # of the squared residuals: from here on misfit is larger than noise
EXACT = 1e-10  # relative residuals below this are rounding, not misfit


@dataclass(frozen=True)
class Misfit:
    """Share of the parabolas' squared residuals that cubic and quartic terms explain, and p of the
    F test that this is chance."""

    share: float
    p: float

    @property
    def is_large(self) -> bool:
        """Whether it outweighs the noise."""
        return self.share > LARGE_SHARE and self.p < SIGNIFICANT


@dataclass(frozen=True)
class Window:
    """The runs of each profile that its parabola is fitted to.

    factor: sizes lie within it of the minimum (infinite: the whole profile). misfit: at this
    window; None where too few runs are left to test.
    """

    masks: tuple[Mask, ...]
    factor: float
    misfit: Misfit | None


def choose_window(profiles: Sequence[Profile]) -> Window:
    """The widest window that parabolas fit, or the narrowest of all."""
    chosen: Window | None = None
    for factor in FACTORS:
        masks = tuple(sizes_around_minimum(profile, factor) for profile in profiles)
        if chosen is not None and all(map(np.array_equal, masks, chosen.masks)):
            continue
        chosen = Window(
            masks, factor, misfit([p.subset(m) for p, m in zip(profiles, masks, strict=True)])
        )
        if chosen.misfit is None or not chosen.misfit.is_large:
            break
    return chosen or Window((), np.inf, None)


def sizes_around_minimum(profile: Profile, factor: float) -> Mask:
    """Which runs have sizes within a factor of the vertex of the parabola through them.

    Never fewer than the `LEAST_IN_WINDOW` nearest sizes.
    """
    whole = np.ones(len(profile), bool)
    if not np.isfinite(factor) or profile.sizes <= LEAST_IN_WINDOW:
        return whole
    x = profile.means_by_size(profile.log_n)
    lowest = float(x[profile.means_by_size(profile.loss).argmin()])
    mask, centre = whole, _vertex(profile, whole, lowest)
    for _ in range(20):
        distance = np.abs(x - centre)
        near = distance <= max(np.log(factor), np.sort(distance)[LEAST_IN_WINDOW - 1])
        following = near[profile.size]
        if np.array_equal(following, mask):
            break
        mask, centre = following, _vertex(profile, following, lowest)
    return mask


def _vertex(profile: Profile, mask: Mask, otherwise: float) -> float:
    """Log size at the vertex; `otherwise` where it is not among the sizes."""
    log_n = profile.log_n
    vertex = float(parabola_minimum(log_n[mask], profile.loss[mask][None])[0][0])
    return vertex if log_n.min() < vertex < log_n.max() else otherwise


def misfit(profiles: Sequence[Profile]) -> Misfit | None:
    """Of a cubic and a quartic term, in common to all profiles relative to their loss, beside a
    parabola for each; None with too few runs."""
    freedom = sum(len(profile) - 3 for profile in profiles) - 2
    if freedom < 1:
        return None
    residual, extra = (
        np.concatenate(parts) for parts in zip(*map(_left_over, profiles), strict=True)
    )
    plain = float(residual @ residual)
    fitted = extra @ np.linalg.lstsq(extra, residual, rcond=None)[0]
    better = float(((residual - fitted) ** 2).sum())
    if plain < len(residual) * EXACT**2:
        return Misfit(0.0, 1.0)
    ratio = (plain - better) / 2 / max(better / freedom, 1e-300)
    return Misfit(1 - better / plain, float(stats.f.sf(ratio, 2, freedom)))


def _left_over(profile: Profile) -> tuple[Array, Array]:
    """What parabolas leave of the relative losses (n,), and of the third and fourth power of log
    size about the vertex (n, 2)."""
    log_n, loss = profile.log_n, profile.loss
    x = log_n - _vertex(profile, np.ones(len(profile), bool), float(log_n.mean()))
    target = np.column_stack([loss / loss.mean(), x**3, x**4])
    design = np.column_stack([np.ones_like(x), x, x**2])
    left = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return left[:, 0], left[:, 1:]
