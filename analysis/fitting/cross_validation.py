"""Which law predicts best: train on small budgets, test on larger ones.

Errors are relative: (predicted - measured) / measured.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fitting.bootstrap import bootstrap
from analysis.fitting.estimate import Fit, fit_law
from analysis.fitting.law import Array
from analysis.fitting.table import inputs
from cola.errors import FitError

log = logging.getLogger(__name__)

# Chosen values: each fold is a whole fit, so it has fewer refits and starts than a final one.
BOOTSTRAP = 200
LEVEL = 0.9
STARTS = 16
LEAST_TRAINING_BUDGETS = 3
SEED = 0


@dataclass(frozen=True)
class Fold:
    """One split: the budgets trained up to (or left out), and the errors of the held-out points."""

    split: float
    errors: Array
    covered: NDArray[np.bool_]


@dataclass(frozen=True)
class Score:
    """How a law predicts points that it was not fitted to."""

    law: str
    folds: tuple[Fold, ...]

    @property
    def errors(self) -> Array:
        """Of all folds."""
        return np.concatenate([fold.errors for fold in self.folds])

    @property
    def mean_absolute_error(self) -> float:
        """Mean over the held-out points of |relative error|."""
        return float(np.abs(self.errors).mean())

    @property
    def signed_error(self) -> float:
        """Mean relative error: positive where the law predicts too high a loss."""
        return float(self.errors.mean())

    @property
    def coverage(self) -> float:
        """Share of held-out points inside their 90% prediction intervals."""
        return float(np.concatenate([fold.covered for fold in self.folds]).mean())


def rolling_origin(law: str, rows: pd.DataFrame, estimator: str = "huber") -> Score | None:
    """Train on all budgets up to one, test on the next; None where no fold can be fitted."""
    budgets = np.sort(rows["budget"].unique())
    splits = [
        (budget, rows["budget"] <= budget, rows["budget"] == following)
        for budget, following in pairwise(budgets)
    ]
    return _score(law, rows, splits[LEAST_TRAINING_BUDGETS - 1 :], estimator=estimator, seed=SEED)


def leave_one_budget_out(
    law: str, rows: pd.DataFrame, estimator: str = "huber", *, seed: int = 0
) -> Score | None:
    """Train on all budgets but one, test on that one."""
    splits = [
        (budget, rows["budget"] != budget, rows["budget"] == budget)
        for budget in np.sort(rows["budget"].unique())
    ]
    return _score(law, rows, splits, estimator=estimator, seed=seed)


def _score(
    law: str,
    rows: pd.DataFrame,
    splits: Sequence[tuple[float, pd.Series, pd.Series]],
    *,
    estimator: str,
    seed: int,
) -> Score | None:
    folds = []
    for split, train, test in splits:
        try:
            fit = fit_law(law, inputs(rows[train]), estimator, starts=STARTS, seed=seed)
        except FitError as error:
            log.debug("law %s: fold at %.3g skipped: %s", law, split, error)
            continue
        folds.append(_fold(fit, float(split), rows[train], held_out=rows[test], seed=seed))
    return Score(law, tuple(folds)) if folds else None


def _fold(
    fit: Fit, split: float, training: pd.DataFrame, *, held_out: pd.DataFrame, seed: int
) -> Fold:
    points = inputs(held_out)
    strata = training["budget"].tolist()
    low, high = bootstrap(fit, BOOTSTRAP, seed, strata=strata).prediction_band(points, seed, LEVEL)
    errors = fit.loss(points) / points.loss - 1
    return Fold(split, errors, (points.loss >= low) & (points.loss <= high))


@dataclass(frozen=True)
class Choice:
    """Laws ranked by their rolling-origin error; `weights` of a combination that did better."""

    scores: tuple[Score, ...]
    weights: dict[str, float] | None
    combined_error: float | None

    @property
    def best(self) -> str:
        """The single law that predicts best."""
        return self.scores[0].law


def choose(laws: Sequence[str], rows: pd.DataFrame, estimator: str = "huber") -> Choice:
    """Rank laws by rolling origin; combine them where that predicts better.

    The combination's weights (1 / squared error of the folds before) are always taken from smaller
    budgets than those it is judged on.

    Raises:
        FitError: when no law can be tested.
    """
    tested = [score for law in laws if (score := rolling_origin(law, rows, estimator)) is not None]
    if not tested:
        raise FitError("too few budgets to test a law on larger ones than it was fitted to")
    # Laws are compared on the folds that all of them have.
    common = set.intersection(*({fold.split for fold in score.folds} for score in tested))
    scores = [Score(s.law, tuple(fold for fold in s.folds if fold.split in common)) for s in tested]
    ranked = tuple(sorted(scores, key=lambda score: score.mean_absolute_error))
    if len(ranked) < 2 or len(common) < 2:
        return Choice(ranked, None, None)
    weights, error, single = _combination(ranked)
    better = error < single
    return Choice(ranked, weights if better else None, error if better else None)


def _combination(ranked: Sequence[Score]) -> tuple[dict[str, float], float, float]:
    """Weights from all folds, and on the folds from the second on: its error, the best law's."""
    count = len(ranked[0].folds)
    errors, single = [], []
    for fold in range(1, count):
        weights = _weights(ranked, fold)
        parts = [w * s.folds[fold].errors for w, s in zip(weights, ranked, strict=True)]
        errors.append(np.abs(np.sum(parts, axis=0)))
        single.append(np.abs(ranked[0].folds[fold].errors))
    final = _weights(ranked, count)
    named = {score.law: float(w) for score, w in zip(ranked, final, strict=True)}
    return named, float(np.concatenate(errors).mean()), float(np.concatenate(single).mean())


def _weights(ranked: Sequence[Score], folds: int) -> Array:
    squares = [
        np.mean(np.concatenate([fold.errors for fold in score.folds[:folds]]) ** 2)
        for score in ranked
    ]
    inverse = 1 / np.maximum(squares, 1e-12)
    return np.asarray(inverse / inverse.sum())
