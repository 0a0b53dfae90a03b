"""Proper scores of predictions that are known by independent draws of them.

Brier's score is here 2 p(x) - sum over v of p(v)^2 of the text's own x: at most 1, the higher the
better, and highest in the mean for the true distribution. Of two independent draws a and b,
1[a = x] + 1[b = x] - 1[a = b] has it as its mean, so it needs no probabilities (CALM, arXiv
2510.27688). Brier-n takes the first n tokens for one outcome; BrierLM is 100 times the geometric
mean of Brier-1 to Brier-4.
M draws, N tokens, I items.
"""

from __future__ import annotations

import math

import numpy as np

from cola.evaluation.clusters import ClusteredMean, clustered_mean

GRAMS = (1, 2, 3, 4)  # of BrierLM


def brier_of_draws(drawn_MN: np.ndarray, truth_N: np.ndarray) -> float:
    """Brier's score of N tokens as one outcome, the mean over all pairs of two draws or more."""
    draws = len(drawn_MN)
    _, counts = np.unique(drawn_MN, axis=0, return_counts=True)
    right = float((drawn_MN == truth_N).all(1).mean())
    alike = float((counts * (counts - 1)).sum()) / (draws * (draws - 1))
    return 2 * right - alike


def brier_of_independent(probability_N: np.ndarray, square: float) -> float:
    """Brier's score of N tokens as one outcome where each is drawn alone: `probability_N` are those
    of the text's tokens, `square` the sum of squares over the vocabulary."""
    return float(2 * probability_N.prod() - square ** len(probability_N))


def brierlm(brier_IG: np.ndarray, clusters_I: np.ndarray) -> ClusteredMean | None:
    """BrierLM of Brier-1 to Brier-4 of every item, with its standard error by linearisation; None
    where one of the means is not above 0, so that there is no geometric mean."""
    mean_G = brier_IG.mean(0)
    if (mean_G <= 0).any():
        return None
    value = 100 * float(np.exp(np.log(mean_G).mean()))
    # d log BrierLM of an item's scores.
    return clustered_mean(value * (brier_IG / mean_G).mean(1), clusters_I)


def log_mean_exp(log_p: np.ndarray, axis: int = 0) -> np.ndarray:
    """log of the mean of exp along an axis."""
    top = log_p.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        found = np.log(np.exp(log_p - top).mean(axis=axis)) + np.squeeze(top, axis)
    return np.asarray(found)


def by_draws(joint_M: np.ndarray) -> dict[int, float]:
    """-log of the mean probability over 1, 2, 4, ... draws and over all, each the mean over
    separate groups of so many: an upper bound in the mean, which falls as they grow."""
    draws = len(joint_M)
    counts = [2**power for power in range(int(math.log2(draws)) + 1)]
    return {
        count: float(
            -log_mean_exp(joint_M[: draws // count * count].reshape(-1, count), axis=1).mean()
        )
        for count in sorted({*counts, draws})
    }


def chain_rule(joint_MN: np.ndarray) -> list[float]:
    """-log p of each token given the ones before it, under the mixture of the draws: their sum is
    that of the whole. Each draw counts by what it gave to the tokens before."""
    until_N = log_mean_exp(joint_MN.cumsum(1))
    return [float(value) for value in -np.diff(until_N, prepend=0.0)]
