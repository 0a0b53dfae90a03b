"""Quality at matched diversity: families compared at one entropy, whatever their defaults are.

A curve's quality at an entropy is the best that lies on a line between two of its settings that are
neighbours in one key. R resamples, S seeds, G settings, P prompts, K numbers a prompt, E pairs of
neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from cola.evaluation.clusters import CONFIDENCE
from cola.evaluation.frontier.scores import COLUMNS, ENTROPY, Quality
from cola.evaluation.statistics import RESAMPLES

AT = COLUMNS.index(ENTROPY)


@dataclass(frozen=True)
class Curve:
    """values_SGPK: of every seed and setting the numbers of each prompt; `edges`: pairs of settings
    that a line is drawn between."""

    values_SGPK: np.ndarray
    edges: Sequence[tuple[int, int]]

    def means(self, weights_RP: np.ndarray) -> np.ndarray:
        """Means over prompts by their weights: (R, S, G, K)."""
        shares_RP = weights_RP / weights_RP.sum(1, keepdims=True)
        found = np.tensordot(shares_RP, self.values_SGPK, axes=([1], [2]))
        return np.asarray(found)

    def reach(self) -> tuple[float, float]:
        """The least and the largest entropy of its settings, in the mean over seeds."""
        entropy_G = self.values_SGPK[..., AT].mean((0, 2))
        return float(entropy_G.min()), float(entropy_G.max())

    def at(self, means_XGK: np.ndarray, entropy_X: np.ndarray, quality: Quality) -> np.ndarray:
        """The best quality at an entropy, (X,), of the settings' means; an entropy beyond all
        settings has the quality of the nearest."""
        entropy_XG, quality_XG = means_XGK[..., AT], quality.of(means_XGK)
        sought_X = np.clip(entropy_X, entropy_XG.min(1), entropy_XG.max(1))[:, None]
        edges = np.array([*self.edges, *((g, g) for g in range(entropy_XG.shape[1]))])
        one_XE, other_XE = entropy_XG[:, edges[:, 0]], entropy_XG[:, edges[:, 1]]
        width_XE = other_XE - one_XE
        flat_XE = np.abs(width_XE) < 1e-12
        share_XE = np.where(flat_XE, 0.0, (sought_X - one_XE) / np.where(flat_XE, 1.0, width_XE))
        inside_XE = np.where(flat_XE, np.abs(sought_X - one_XE) < 1e-9,
                             (share_XE >= 0) & (share_XE <= 1))  # fmt: skip
        first_XE, last_XE = quality_XG[:, edges[:, 0]], quality_XG[:, edges[:, 1]]
        value_XE = first_XE + share_XE * (last_XE - first_XE)
        sign = 1.0 if quality.better == "lower" else -1.0
        worst = np.where(inside_XE & np.isfinite(value_XE), sign * value_XE, np.inf).min(1)
        return np.where(np.isfinite(worst), sign * worst, np.nan)


@dataclass(frozen=True)
class Gap:
    """How much worse than the best curve another is (at least 0 in the estimate), with its interval
    over documents and seeds; None where there is none."""

    curve: str
    value: float
    behind: float
    low: float | None
    high: float | None

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out equality."""
        return self.low is not None and self.low > 0


@dataclass(frozen=True)
class Match:
    """Curves at one entropy: `best` with its value, and how far the others are behind it.

    `own`: it is the text's own entropy, else the nearest that all of them reach. `seeds`: how many
    runs the intervals know of each curve.
    """

    quality: Quality
    entropy: float
    own: bool
    best: str
    value: float
    gaps: tuple[Gap, ...]
    seeds: Mapping[str, int]
    documents: int


@dataclass(frozen=True)
class Reading:
    """A curve's quality at one entropy: its value, those of resamples, and that of each seed."""

    value: float
    drawn_R: np.ndarray
    seeds_S: np.ndarray


def matched(
    curves: Mapping[str, Curve], truth_P: np.ndarray, clusters_P: np.ndarray, quality: Quality
) -> Match | None:
    """The curves compared at the entropy of the text itself, of which truth_P is that of each
    prompt's own continuation; None of less than two curves, or where they have no entropy, or no
    value there, in common."""
    own = float(truth_P.mean())
    entropy = common_entropy(curves, own) if len(curves) > 1 else None
    if entropy is None:
        return None
    weights_RP = resampled_weights(clusters_P)
    at_R = np.full(len(weights_RP), entropy)
    if entropy == own:  # which follows the documents too
        at_R = weights_RP @ truth_P / weights_RP.sum(1)
    readings = {
        name: reading(curve, weights_RP, entropy, at_R=at_R, quality=quality)
        for name, curve in curves.items()
    }
    if not all(math.isfinite(found.value) for found in readings.values()):
        return None
    documents = len(np.unique(clusters_P))
    best, gaps = ranked(readings, quality, documents)
    return Match(
        quality,
        entropy,
        entropy == own,
        best,
        readings[best].value,
        gaps,
        {name: len(found.seeds_S) for name, found in readings.items()},
        documents,
    )


def reading(
    curve: Curve, weights_RP: np.ndarray, entropy: float, *, at_R: np.ndarray, quality: Quality
) -> Reading:
    """The curve's quality at an entropy, with resamples of documents at theirs."""
    whole_SGK = curve.means(np.ones((1, weights_RP.shape[1])))[0]
    drawn_RGK = curve.means(weights_RP).mean(1)
    return Reading(
        float(curve.at(whole_SGK.mean(0)[None], np.array([entropy]), quality)[0]),
        curve.at(drawn_RGK, at_R, quality),
        curve.at(whole_SGK, np.full(len(whole_SGK), entropy), quality),
    )


def ranked(
    readings: Mapping[str, Reading], quality: Quality, documents: int
) -> tuple[str, tuple[Gap, ...]]:
    """The best curve, and how far each other is behind it, the nearest first; intervals hold of all
    of them together (Bonferroni)."""
    sign = 1.0 if quality.better == "lower" else -1.0
    best = min(readings, key=lambda name: sign * readings[name].value)
    first, gaps = readings[best], []
    level = 1 - (1 - CONFIDENCE) / (len(readings) - 1)
    for name, other in readings.items():
        if name == best:
            continue
        behind = sign * (other.value - first.value)
        seeds = (other.seeds_S, first.seeds_S)
        half = half_width(other.drawn_R - first.drawn_R, seeds, documents=documents, level=level)
        low, high = (None, None) if half is None else (behind - half, behind + half)
        gaps.append(Gap(name, other.value, behind, low, high))
    return best, tuple(sorted(gaps, key=lambda gap: gap.behind))


def common_entropy(curves: Mapping[str, Curve], own: float) -> float | None:
    """The entropy nearest to the text's own that all curves reach; None where there is none."""
    reaches = [curve.reach() for curve in curves.values()]
    low, high = max(low for low, _ in reaches), min(high for _, high in reaches)
    return min(max(own, low), high) if low <= high else None


def resampled_weights(clusters_P: np.ndarray) -> np.ndarray:
    """How often each prompt is in resamples of whole documents (seed 0): (R, P)."""
    _, cluster_P = np.unique(clusters_P, return_inverse=True)
    count = int(cluster_P.max()) + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.asarray(drawn[:, cluster_P], dtype=float)


def half_width(
    drawn_R: np.ndarray, seeds: Sequence[np.ndarray], *, documents: int, level: float
) -> float | None:
    """Half of a difference's interval, by Student's t: its variance over resampled documents and
    that of each curve's seeds over their number, with Satterthwaite's degrees of freedom. A curve
    of one seed adds nothing. None of one document, or where resamples lack a value."""
    if documents < 2 or not np.isfinite(drawn_R).all():
        return None
    # A bootstrap of n clusters has (n - 1) / n of their variance.
    parts = [(float(drawn_R.var()) * documents / (documents - 1), documents - 1)]
    for values in seeds:
        known = values[np.isfinite(values)]
        if len(known) > 1:
            parts.append((float(known.var(ddof=1)) / len(known), len(known) - 1))
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0
    degrees = total**2 / sum(variance**2 / free for variance, free in parts)
    return float(stdtrit(degrees, 0.5 + level / 2)) * math.sqrt(total)
