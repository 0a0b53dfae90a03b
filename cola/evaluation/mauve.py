"""MAUVE (arXiv 2102.01454) of two sets of texts by their features, with an interval.

The score depends on the number of texts over that of clusters, which is 10 as in the paper; two
samples of one source then have about 0.95. Shapes: N texts, d features.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from cola.evaluation.clusters import CONFIDENCE

LEAST = 50  # chosen: below that its histogram has a handful of buckets
COMPARABLE = 1000  # texts from which it is compared: the field's least, as in the paper
SEED = 25  # the library's default
HALF_SAMPLES = 10  # chosen: a standard deviation of ten is known to a fourth
METHOD = (
    f"{HALF_SAMPLES} random halves of the texts, each with a clustering of its own (Student's t)"
)


@dataclass(frozen=True)
class MauveScore:
    """`value`: of all texts, by the library's defaults. `standard_error`: by half-samples, of as
    many clusters a text, whose variance is that of the whole; of texts and clusterings together,
    not of training seeds. `texts`: of the smaller set."""

    value: float
    standard_error: float
    texts: int

    @property
    def interval(self) -> tuple[float, float]:
        """95% of both, within 0 to 1."""
        half = float(stdtrit(HALF_SAMPLES - 1, 0.5 + CONFIDENCE / 2)) * self.standard_error
        return max(0.0, self.value - half), min(1.0, self.value + half)

    @property
    def note(self) -> str:
        """What of it a reader must know; empty where nothing."""
        if self.texts >= COMPARABLE:
            return ""
        return (
            f"MAUVE is of {self.texts:,} texts: of fewer than {COMPARABLE:,} it is not comparable "
            "with published ones"
        )

    def as_json(self) -> dict[str, Any]:
        """For results."""
        low, high = self.interval
        return {"value": self.value, "low": low, "high": high, "texts": self.texts,
                "interval": METHOD}  # fmt: skip


def mauve(generated_Nd: np.ndarray, real_Nd: np.ndarray) -> MauveScore:
    """The area under the divergence frontier of both sets' clusters: 0 to 1, 1 is alike.

    Raises:
        ValueError: for less than `LEAST` texts.
    """
    texts = min(len(generated_Nd), len(real_Nd))
    if texts < LEAST:
        raise ValueError(f"MAUVE needs {LEAST} texts, not {texts}")
    random = np.random.default_rng(SEED)
    halves = [
        _score(_half(generated_Nd, random), _half(real_Nd, random), SEED + repeat)
        for repeat in range(1, HALF_SAMPLES + 1)
    ]
    return MauveScore(_score(generated_Nd, real_Nd, SEED), float(np.std(halves, ddof=1)), texts)


def of_halves(real_Nd: np.ndarray) -> MauveScore | None:
    """The score of one half of real texts against the other, which no model passes in the mean:
    that of `HALF_SAMPLES` random divisions, whose scatter is its standard error. None where texts
    are too few."""
    if len(real_Nd) < 2 * LEAST:
        return None
    random, middle = np.random.default_rng(SEED), len(real_Nd) // 2
    scores = []
    for repeat in range(HALF_SAMPLES):
        order_N = random.permutation(len(real_Nd))
        one, other = real_Nd[order_N[:middle]], real_Nd[order_N[middle:]]
        scores.append(_score(one, other, SEED + repeat))
    return MauveScore(float(np.mean(scores)), float(np.std(scores, ddof=1)), middle)


def _half(features_Nd: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return features_Nd[random.permutation(len(features_Nd))[: len(features_Nd) // 2]]


def _score(generated_Nd: np.ndarray, real_Nd: np.ndarray, seed: int) -> float:
    from mauve import compute_mauve

    with _without_warnings():
        found = compute_mauve(p_features=generated_Nd, q_features=real_Nd, seed=seed, verbose=False)
    return float(found.mauve)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide what faiss writes to stderr itself: that ten texts a cluster are few, each time."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123 (no path to be found)
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
