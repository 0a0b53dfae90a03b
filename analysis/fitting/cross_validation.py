"""Which law predicts best: train on small budgets, test on larger ones.

Errors are relative: (predicted - measured) / measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fitting.bootstrap import Misfit, Refits
from analysis.fitting.constraints import FREE, Constraints
from analysis.fitting.estimate import Fit, fit_law
from analysis.fitting.law import Array
from analysis.fitting.resampling import Plan, plan_of
from analysis.fitting.table import inputs
from cola.errors import FitError

log = logging.getLogger(__name__)

# Chosen values: each fold is a whole fit, so it has fewer refits and starts than a final one.
BOOTSTRAP = 200
LEVEL = 0.9
STARTS = 16
LEAST_TRAINING_BUDGETS = 3
SEED = 0
FOLD_REFITS, FOLD_STARTS = 100, 8  # of folds that judge bands, or a default law
MOST_BUDGETS, STEPS = 24, 8  # budgets that are taken as they are; bins in place of others
SAME_STEP = 3.0  # chosen: largest compute over smallest of what is one step
BAND = 0.95  # level of the bands that are judged
# Chosen: standard errors, over so many splits, by which another law than the usual must be better.
CLEARLY, LEAST_SPLITS = 2.0, 3
WINDOWS_TESTED = 3  # chosen: a third of the budgets, the largest, judge from where on to fit
# Bands that no split has tested are widened 2.5 times: what 95% of larger budgets of public tables
# with two training budgets needed (`python -m tests.benchmarks.law_coverage --only public`).
UNTESTED, UNTESTED_HORIZON = 1.5, float(np.log(3))


@dataclass(frozen=True)
class Fold:
    """One split: the budgets trained up to (or left out), the errors of the held-out points, and
    which of them lie inside their bands (None: not asked for)."""

    split: float
    errors: Array
    covered: NDArray[np.bool_] | None


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
    def coverage(self) -> float | None:
        """Share of held-out points inside their 90% prediction intervals; None: not asked for."""
        covered = [fold.covered for fold in self.folds if fold.covered is not None]
        return float(np.concatenate(covered).mean()) if covered else None


def rolling_origin(
    law: str,
    rows: pd.DataFrame,
    estimator: str = "huber",
    *,
    constraints: Constraints = FREE,
    steps: pd.Series | None = None,
    bands: bool = True,
) -> Score | None:
    """Train on all budgets up to one, test on the next; None where no fold can be fitted.

    steps: the budget of each row as a number that grows (default: `compute_steps`). bands: whether
    prediction intervals are judged too, which takes refits.
    """
    budget = compute_steps(rows) if steps is None else steps
    splits = [
        (step, budget <= step, budget == following)
        for step, following in pairwise(np.sort(budget.unique()))
    ]
    # A law of sizes is determined within two budgets, one of compute needs three.
    least = LEAST_TRAINING_BUDGETS if len(splits) >= LEAST_TRAINING_BUDGETS else 2
    return _score(
        law,
        rows,
        splits[least - 1 :],
        estimator=estimator,
        seed=SEED,
        constraints=constraints,
        bands=bands,
    )


def compute_steps(rows: pd.DataFrame) -> pd.Series:
    """The budget of each row as a number that grows with compute; where budgets are wide or about
    as many as runs, bins of alike many rows in their place."""
    compute = rows["compute"].groupby(rows["budget"])
    wide = bool((compute.max() > SAME_STEP * compute.min()).any())
    if not wide and len(compute) <= MOST_BUDGETS:
        middle = np.exp(np.log(rows["compute"]).groupby(rows["budget"]).mean())
        return rows["budget"].map(middle).astype(float)
    bins = pd.qcut(np.log(rows["compute"]), min(STEPS, len(rows)), duplicates="drop")
    logs = bins.map(lambda interval: interval.right).astype(float)
    return pd.Series(np.exp(logs.to_numpy()), index=rows.index)


def leave_one_budget_out(
    law: str, rows: pd.DataFrame, estimator: str = "huber", *, seed: int = 0
) -> Score | None:
    """Train on all budgets but one, test on that one."""
    budget = compute_steps(rows)
    splits = [(step, budget != step, budget == step) for step in np.sort(budget.unique())]
    return _score(law, rows, splits, estimator=estimator, seed=seed)


@dataclass(frozen=True)
class Window:
    """The rows that a law is fitted to: those of at least `start` FLOPs. errors: by each start that
    was tried (least compute of its rows) the mean |relative error| on the same larger budgets."""

    start: float
    errors: dict[float, float]


def best_window(
    law: str, rows: pd.DataFrame, estimator: str = "huber", *, constraints: Constraints = FREE
) -> Window:
    """Without which of the smallest budgets the law predicts larger ones best.

    Over many decades of compute data bend away from a law, and small budgets are then fitted at the
    cost of large ones. Every start is judged on the same rows, the largest third of the budgets,
    each predicted by those from the start up to it. The lowest start is taken that is not worse
    than the best one by more than a standard error, for fewer rows are known less well.

    Raises:
        FitError: too few budgets to leave one out, or no start could be judged.
    """
    budget = compute_steps(rows)
    steps = np.sort(budget.unique())
    first = len(steps) - max(2, len(steps) // WINDOWS_TESTED)
    starts = steps[: max(0, first - LEAST_TRAINING_BUDGETS + 1)]
    if len(starts) < 2:
        raise FitError(
            f"--from auto: the rows have {len(steps)} budgets; to leave the smallest out and test "
            "that takes 6. Give a compute, or leave --from out"
        )
    found: dict[float, Array] = {}
    for start in starts:
        kept, errors = budget >= start, []
        for step in steps[first:]:
            train, test = rows[kept & (budget < step)], inputs(rows[budget == step])
            fit = _attempt(law, train, estimator, step, starts=STARTS, constraints=constraints)
            if fit is not None:
                errors.append(np.abs(fit.loss(test) / test.loss - 1))
        if len(errors) == len(steps) - first:
            found[float(rows["compute"][kept].min())] = np.concatenate(errors)
    if not found:
        raise FitError(f"--from auto: law {law} cannot be fitted to so few budgets; give a compute")
    best = min(found.values(), key=np.mean)
    start = next(start for start, errors in found.items() if not _worse(errors, best))
    return Window(start, {each: float(errors.mean()) for each, errors in found.items()})


def _worse(errors: Array, best: Array, times: float = 1.0) -> bool:
    """Whether errors on the same points are larger by more than so many standard errors."""
    beyond = errors - best
    return bool(beyond.mean() > times * beyond.std(ddof=1) / np.sqrt(len(beyond)))


def with_misfit(
    refits: Refits, rows: pd.DataFrame, seed: int = SEED, *, constraints: Constraints = FREE
) -> Refits:
    """The refits, with how far the law's predictions of larger budgets went beyond their bands.

    The law is fitted to all rows up to a budget and judged on all larger ones, for every budget
    that leaves enough on both sides. The split that needed most decides: splits share their data,
    and their mean would hide the one where the data bend away from the law. Few splits may all
    have missed such a bend, so that the factor has a least value, 1 + 1.5 / (1 + splits).
    """
    folds = list(_judged(refits.fit, rows, seed, constraints=constraints))
    times = 1 + UNTESTED / (1 + len(folds))
    if not folds:
        return replace(refits, misfit=Misfit(times, float("nan"), 0, 0, UNTESTED_HORIZON))
    times = max([times, *(float(np.quantile(fold.scores, BAND)) for fold in folds)])
    horizon = np.concatenate([fold.horizons for fold in folds])
    held = float(np.mean([float((fold.scores <= 1).mean()) for fold in folds]))
    return replace(
        refits, misfit=Misfit(times, held, len(folds), len(horizon), float(np.median(horizon)))
    )


@dataclass(frozen=True)
class _Judged:
    """Held-out points of one fold. scores: how many times the 95% band's half-width (of log loss)
    each was missed by. horizons: log of its compute over the fold's largest."""

    scores: Array
    horizons: Array


def _judged(
    fit: Fit, rows: pd.DataFrame, seed: int, *, constraints: Constraints
) -> Iterator[_Judged]:
    budget = compute_steps(rows)
    steps = np.sort(budget.unique())
    least = LEAST_TRAINING_BUDGETS if len(steps) > LEAST_TRAINING_BUDGETS else 2
    for step in steps[least - 1 : -1]:
        train, test = rows[budget <= step], rows[budget > step]
        found = _attempt(
            fit.law.name,
            train,
            fit.estimator,
            step,
            starts=FOLD_STARTS,
            seed=seed,
            constraints=constraints,
        )
        if found is None:
            continue
        if len(found.points) <= len(found.theta) + 1:
            continue
        refits = _plan(train).refit(found, FOLD_REFITS, seed)
        points = inputs(test)
        centre = found.loss(points)
        low, high = refits.prediction_band(points, seed, BAND)
        off = np.log(points.loss / centre)
        half = np.where(off > 0, np.log(high / centre), np.log(centre / low))
        beyond = np.log(points.compute / found.points.compute.max())
        yield _Judged(np.abs(off) / np.maximum(half, 1e-12), np.maximum(beyond, 0.0))


def _plan(rows: pd.DataFrame) -> Plan:
    """As the whole table is resampled; single rows where a fold has too few runs for that."""
    plan = plan_of(rows)
    return plan_of(rows.drop(columns="run")) if plan.none else plan


def _score(
    law: str,
    rows: pd.DataFrame,
    splits: Sequence[tuple[float, pd.Series, pd.Series]],
    *,
    estimator: str,
    seed: int,
    constraints: Constraints = FREE,
    bands: bool = True,
) -> Score | None:
    folds = []
    for split, train, test in splits:
        fit = _attempt(
            law,
            rows[train],
            estimator,
            split,
            starts=STARTS if bands else FOLD_STARTS,
            seed=seed,
            constraints=constraints,
        )
        if fit is not None:
            training = rows[train] if bands else None
            folds.append(_fold(fit, float(split), training, held_out=rows[test], seed=seed))
    return Score(law, tuple(folds)) if folds else None


def _attempt(
    law: str,
    train: pd.DataFrame,
    estimator: str,
    split: float,
    *,
    starts: int,
    seed: int = SEED,
    constraints: Constraints = FREE,
) -> Fit | None:
    """The law through the rows of one side of a split; None where they cannot carry it."""
    try:
        return fit_law(
            law, inputs(train), estimator, starts=starts, seed=seed, constraints=constraints
        )
    except FitError as error:
        log.debug("law %s: split at %.3g skipped: %s", law, split, error)
        return None


def _fold(
    fit: Fit, split: float, training: pd.DataFrame | None, *, held_out: pd.DataFrame, seed: int
) -> Fold:
    points = inputs(held_out)
    errors = fit.loss(points) / points.loss - 1
    if training is None:
        return Fold(split, errors, None)
    refits = _plan(training).refit(fit, BOOTSTRAP, seed)
    low, high = refits.prediction_band(points, seed, LEVEL)
    return Fold(split, errors, (points.loss >= low) & (points.loss <= high))


@dataclass(frozen=True)
class Choice:
    """Laws ranked by their rolling-origin error; `weights` of a combination that did better.
    unjudged: laws that need so many budgets that too few are left to judge them on."""

    scores: tuple[Score, ...]
    weights: dict[str, float] | None
    combined_error: float | None
    unjudged: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """The single law that predicts best."""
        return self.scores[0].law

    def instead_of(self, usual: str) -> str:
        """The usual law, or the best one where that predicts better by more than two standard
        errors, so that chance alone does not change the law from table to table. Points of a split
        share one fit and its error: splits are what is counted, three or more of them."""
        means = {
            score.law: np.array([float(np.abs(fold.errors).mean()) for fold in score.folds])
            for score in self.scores
        }
        if usual not in means:
            return self.best
        known = len(means[usual]) >= LEAST_SPLITS
        return self.best if known and _worse(means[usual], means[self.best], CLEARLY) else usual


def choose(
    laws: Sequence[str], rows: pd.DataFrame, estimator: str = "huber", *, bands: bool = True
) -> Choice:
    """Rank laws by rolling origin; combine them where that predicts better.

    All are compared on the same splits; a law with fewer than three is left out where others have
    as many, as it would leave one or two of theirs. The combination's weights (1 / squared error of
    the folds before) are always taken from smaller budgets than those it is judged on.

    Raises:
        FitError: when no law can be tested.
    """
    scored = (rolling_origin(law, rows, estimator, bands=bands) for law in laws)
    tested = [score for score in scored if score is not None]
    if not tested:
        raise FitError("too few budgets to test a law on larger ones than it was fitted to")
    well = [score for score in tested if len(score.folds) >= LEAST_SPLITS]
    unjudged = tuple(score.law for score in tested if well and score not in well)
    tested = well or tested
    common = set.intersection(*({fold.split for fold in score.folds} for score in tested))
    scores = [Score(s.law, tuple(fold for fold in s.folds if fold.split in common)) for s in tested]
    ranked = tuple(sorted(scores, key=lambda score: score.mean_absolute_error))
    if len(ranked) < 2 or len(common) < 2:
        return Choice(ranked, None, None, unjudged)
    weights, error, single = _combination(ranked)
    better = error < single
    return Choice(ranked, weights if better else None, error if better else None, unjudged)


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
