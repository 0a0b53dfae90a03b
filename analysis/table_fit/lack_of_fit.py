"""Whether a law fits at all: its residuals against repeats, against a threshold, and run by run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import f as f_distribution

from analysis.fitting.bootstrap import seed_noise
from analysis.fitting.estimate import Fit
from analysis.fitting.law import Array

LARGE_SCATTER = 0.03  # chosen: scatter of log loss that no seed makes; published fits keep below 2%
SURELY = 1e-3  # chosen: chance of a misfit's F under the law below which it is named
NOTABLY = 1.5  # chosen: scatter over the repeats' from which a sure misfit matters
FAR, LEAST_FAR = 6.0, 0.01  # robust standard deviations of an outlying run; least log residual
NAMED = 5  # outlying runs that a warning names
SMOOTH = 1e-4  # chosen: chance of a pattern's F without a pattern below which it is named
EXPLAINED = 0.3  # chosen: share of the residuals' squares that a pattern must explain


@dataclass(frozen=True)
class LackOfFit:
    """`notes` for people; `outliers`: measured and fitted loss of runs far from the law."""

    notes: tuple[str, ...]
    outliers: tuple[dict[str, float], ...]
    repeats: tuple[float, int] | None  # sd of log loss between repeats, degrees of freedom


def lack_of_fit(fit: Fit, rows: pd.DataFrame) -> LackOfFit:
    """What the residuals (log predicted - log measured) say of the law."""
    residual = fit.residual
    labels = repeated(rows)
    repeats = seed_noise(rows["loss"].to_numpy(float), labels)
    far = np.flatnonzero(_far(residual))
    notes = [*_against_repeats(fit, residual, labels, repeats=repeats)]
    # A few wild runs are named as such; the scatter of the others is the law's.
    kept = np.delete(residual, far)
    scatter = float(np.sqrt((kept**2).sum() / max(1, len(kept) - len(fit.theta))))
    if scatter > LARGE_SCATTER:
        notes.append(
            f"the residuals scatter by {scatter:.1%} of the loss: the law does not describe these "
            "runs, or they differ in more than size and data"
        )
    elif not notes:
        notes += _pattern(fit, kept, np.delete(np.arange(len(residual)), far))
    outliers = [_outlier(fit, rows, int(index)) for index in far[np.argsort(-abs(residual[far]))]]
    if outliers:
        notes.append(_named(outliers, len(residual)))
    return LackOfFit(tuple(notes), tuple(outliers), repeats)


def repeated(rows: pd.DataFrame) -> list[object]:
    """Labels that runs of one specification share: the same size, tokens and compute."""
    known = [name for name in ("parameters", "tokens", "compute") if name in rows]
    return [tuple(row) for row in rows[known].itertuples(index=False)]


def _against_repeats(
    fit: Fit, residual: Array, labels: list[object], *, repeats: tuple[float, int] | None
) -> list[str]:
    """The classical lack-of-fit test: scatter of the means of repeats about the law, over the
    repeats' own."""
    if repeats is None or repeats[0] <= 0:
        return []
    noise, freedom = repeats
    number = pd.factorize(pd.Series(labels))[0]
    between = len(np.unique(number)) - len(fit.theta)
    if between < 1:
        return []
    means = np.bincount(number, weights=residual) / np.bincount(number)
    square = float((np.bincount(number) * means**2).sum()) / between
    chance = float(f_distribution.sf(square / noise**2, between, freedom))
    if chance > SURELY or np.sqrt(square) < NOTABLY * noise:
        return []
    return [
        f"lack of fit: points scatter by {np.sqrt(square):.2%} about the law, repeats of one run "
        f"by {noise:.2%}; intervals and extrapolations hold only as far as the law does"
    ]


def _far(residual: Array) -> NDArray[np.bool_]:
    middle = float(np.median(residual))
    spread = 1.4826 * float(np.median(np.abs(residual - middle)))
    return np.asarray(np.abs(residual - middle) > max(FAR * spread, LEAST_FAR))


def _pattern(fit: Fit, residual: Array, kept: NDArray[np.int64]) -> list[str]:
    """A smooth surface through the residuals: what is left of the data's shape."""
    points = fit.points.subset(kept)
    logs = [np.log(points.compute)]
    if fit.is_sized:
        logs = [np.log(values) for values in points.sizes()]
    scaled = [(x - x.mean()) / max(float(x.std()), 1e-12) for x in logs]
    crossed = [a * b for i, a in enumerate(scaled) for b in scaled[i:]]
    design = np.column_stack([np.ones(len(residual)), *scaled, *crossed])
    free = len(residual) - len(fit.theta) - design.shape[1]
    whole = float((residual**2).sum())
    if free < design.shape[1] or fit.diagnostics.residual_sd < LEAST_FAR / 10:
        return []
    rest = residual - design @ np.linalg.lstsq(design, residual, rcond=None)[0]
    left = float((rest**2).sum())
    ratio = (whole - left) / design.shape[1] / max(left / free, 1e-300)
    share = 1 - left / whole
    if share < EXPLAINED or f_distribution.sf(ratio, design.shape[1], free) > SMOOTH:
        return []
    return [
        f"lack of fit: {share:.0%} of the residuals' variance is a smooth pattern: the data bend "
        "otherwise than the law, its extrapolations are doubtful"
    ]


def _outlier(fit: Fit, rows: pd.DataFrame, index: int) -> dict[str, float]:
    known = [n for n in ("line", "parameters", "tokens", "compute", "loss") if n in rows]
    found = {name: float(rows[name].iloc[index]) for name in known}
    fitted = fit.loss(fit.points.subset(np.array([index], np.int64)))
    return found | {"fitted_loss": float(fitted[0])}


def _named(outliers: list[dict[str, float]], count: int) -> str:
    shown = "; ".join(
        f"loss {o['loss']:.4g} where the law has {o['fitted_loss']:.4g} at "
        + (f"N={o['parameters']:.3g}, " if "parameters" in o else "")
        + f"C={o['compute']:.3g}"
        for o in outliers[:NAMED]
    )
    more = ", ..." if len(outliers) > NAMED else ""
    return f"{len(outliers)} of {count} points lie far from the law: {shown}{more}"
