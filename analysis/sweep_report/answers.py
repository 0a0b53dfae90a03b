"""What a sweep answers: which point is best, whether an optimum drifts, whether metrics agree.

Points are compared over the same seeds: metric(point, seed) = point + seed + noise, the noise
pooled over all points of an arm. A sentence decides only where its 95% interval does.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.sweep_report.data import ArmFrame, Goal, point_label, seeds_table, short, value_label
from cola.errors import first_of
from cola.records import SOLVER_NLL_DIFFERENCE, Metric

LEVEL = 0.95
REFITS = 2000  # chosen: noise draws behind an interval
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Of one run, with the point's and the seed's effects taken away; `freedom` degrees of it."""

    deviation: float
    freedom: int


@dataclass(frozen=True)
class Drift:
    """Optima of a key at the values of another, and the slope over its logarithm (or itself)."""

    table: pd.DataFrame  # over, optimum, low, high, at_edge
    slope: float
    low: float
    high: float
    log: bool
    control: float | None = None  # slope that comes of no structure


SAME = 1e-9  # relative spread that is rounding


def seed_noise(table: pd.DataFrame) -> Noise | None:
    """From a table of points x seeds; None where it has one seed or one point."""
    points, seeds = table.shape
    freedom = (points - 1) * (seeds - 1)
    if min(points, seeds) < 2:
        return None
    values = table.to_numpy(float)
    residual = (
        values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    )
    return Noise(float(math.sqrt((residual**2).sum() / freedom)), freedom)


def best_sentence(arm: ArmFrame, goal: Goal) -> str:
    """The best point, and which others cannot be distinguished from it."""
    name = f"{arm.name}: " if arm.name else ""
    done = arm.finished
    if goal.name not in done or done[goal.name].notna().sum() == 0:
        return f"{name}no trial finished with {goal.words} ({goal.name}): nothing can be said."
    done = done[done[goal.name].notna()]
    order = (goal.sign * done[goal.name]).sort_values().index
    best = done.loc[order[0]]
    sentence = f"{name}best by {goal.words} is {point_label(arm, best)} ({best[goal.name]:.4f})"
    tested = best.get(Metric.TEST_NLL)
    if tested is not None and not math.isnan(tested):
        sentence += f", on the test split {tested:.4f} nats per token"
    if len(done) == 1:
        return f"{sentence}; it is the only point that finished."
    ties = solver_ties(done, best, goal)
    if not ties.empty:
        return f"{sentence}, {tie_clause(arm, ties)}"
    if np.ptp(done[goal.name]) <= SAME * abs(best[goal.name]):
        return (
            f"{name}{goal.words} is the same at every point ({best[goal.name]:.4f}): it does not "
            "depend on what was varied."
        )
    table = seeds_table(arm, goal)
    noise = seed_noise(table)
    second = done.loc[order[1]]
    gap = abs(second[goal.name] - best[goal.name])
    if noise is None or best["trial"] not in table.index:
        return (
            f"{sentence}, {gap:.4f} better than {point_label(arm, second)}; with one seed a point "
            "the data do not decide whether that is more than chance."
        )
    margin = least_difference(noise, table.shape[1], len(table) - 1)
    means = goal.sign * table.mean(1)
    near = [trial for trial in table.index if means[trial] - means[best["trial"]] < margin]
    others = [
        point_label(arm, row) for _, row in done.iterrows()
        if row["trial"] in near and row["trial"] != best["trial"]
    ]  # fmt: skip
    if not others:
        return (
            f"{sentence}; better than every other point: the next is {gap:.4f} behind, and "
            f"{margin:.4f} would do at {LEVEL:.0%} over {table.shape[1]} seeds."
        )
    shown = first_of(others, 4, separator="; ")
    return (
        f"{sentence}, but the data do not decide: within {margin:.4f} ({LEVEL:.0%}, "
        f"{table.shape[1]} seeds) of it {'is' if len(others) == 1 else 'are'} {shown}."
    )


def solver_ties(done: pd.DataFrame, best: pd.Series, goal: Goal) -> pd.DataFrame:
    """Points whose NLL is nearer to the best one's than twice as many steps of the solver move one
    of the two, with that `error` in the metric's unit; empty where nothing was solved."""
    column = Metric.val(SOLVER_NLL_DIFFERENCE)
    if goal.name not in (Metric.NLL, Metric.BITS_PER_BYTE) or column not in done:
        return done.iloc[:0]
    error = done[column].fillna(0.0).astype(float).abs()
    if goal.name != Metric.NLL:
        error = error * done[goal.name] / done[Metric.NLL]
    error = error.clip(lower=float(error[done["trial"] == best["trial"]].iloc[0]))
    near = (done[goal.name] - best[goal.name]).abs() < error
    return done.assign(error=error)[near & (done["trial"] != best["trial"])]


def tie_clause(arm: ArmFrame, ties: pd.DataFrame) -> str:
    """What cannot be ranked against the best point."""
    shown = first_of([point_label(arm, row) for _, row in ties.iterrows()], 4, separator="; ")
    return (
        f"but it is not ranked against {shown}: twice as many steps of the likelihood's solver "
        f"move these by up to {ties['error'].max():.4f}. Raise evaluation.likelihood.ode_steps."
    )


def headline(sentence: str, arm: str) -> str:
    """The first clause of an arm's answer, for a title."""
    prefix = f"{arm}: " if arm else ""
    text = re.sub(r"^By [^:]*: ", "", sentence.removeprefix(prefix))
    clause = re.match(r"(?:\([^)]*\)|(?![;:.](?: |$)).)*", text)[0]  # type: ignore[index]
    return f"{prefix}{clause}" if prefix else f"{clause[0].upper()}{clause[1:]}"


def mean_error(table: pd.DataFrame) -> float | None:
    """Half of a point's 95% interval: the mean over seeds, by the seeds' pooled noise; None where
    that is not known. `table`: see `data.seeds_table`."""
    noise = seed_noise(table)
    if noise is None:
        return None
    quantile = stats.t.isf((1 - LEVEL) / 2, noise.freedom)
    return float(quantile * noise.deviation / math.sqrt(table.shape[1]))


def least_difference(noise: Noise, seeds: int, comparisons: int) -> float:
    """The difference of two points' means that is more than chance, corrected for the
    number of comparisons."""
    tail = (1 - LEVEL) / 2 / max(1, comparisons)
    return float(stats.t.isf(tail, noise.freedom) * noise.deviation * math.sqrt(2 / seeds))


def estimate_drift(
    arm: ArmFrame, goal: Goal, key: str, *, over: str, log: bool, control: str | None = None
) -> Drift | None:
    """How the best value of `key` moves with `over`; None without seeds or enough values.

    The intervals come from refits of means with the seeds' noise added. `control` "random_code":
    redundancy alone moves the noise at which a code of d dimensions is read by (ln d) / 2 in
    logit t, as the evidence of d dimensions adds up.
    """
    table = seeds_table(arm, goal)
    noise = seed_noise(table)
    if noise is None:
        return None
    points = arm.finished.set_index("trial").loc[table.index]
    keys, overs = points[key].to_numpy(float), points[over].to_numpy(float)
    means = goal.sign * table.mean(1).to_numpy(float)
    values = [v for v in sorted(set(overs)) if (overs == v).sum() >= 3]
    if len(values) < 2:
        return None
    draws = np.random.default_rng(0).standard_t(noise.freedom, (REFITS, len(means)))
    refits = means + draws * noise.deviation / math.sqrt(table.shape[1])
    optima, spread = [], []
    for value in values:
        mine = overs == value
        optima.append(optimum(keys[mine], means[mine]))
        spread.append([optimum(keys[mine], refit[mine]) for refit in refits])
    x = np.log(values) if log else np.array(values)
    slopes = np.polyfit(x, np.array(spread), 1)[0]
    low, high = np.quantile(slopes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    bounds = np.quantile(np.array(spread), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    edges = [o in (keys[overs == v].min(), keys[overs == v].max())
             for o, v in zip(optima, values, strict=True)]  # fmt: skip
    optima_table = pd.DataFrame(
        {"over": values, "optimum": optima, "low": bounds[0], "high": bounds[1], "at_edge": edges}
    )
    slope = float(np.polyfit(x, optima, 1)[0])
    alone = None if control is None else float(np.polyfit(x, 0.5 * np.log(values), 1)[0])
    return Drift(optima_table, slope, float(low), float(high), log, control=alone)


def optimum(x: Array, y: Array) -> float:
    """Where a parabola through the smallest value and its neighbours is smallest, within the
    values of `x`; a smallest value at the edge is the optimum itself."""
    order = np.argsort(x)
    x, y = x[order], y[order]
    index = int(np.argmin(y))
    if index in (0, len(x) - 1):
        return float(x[index])
    a, b, _ = np.polyfit(x[index - 1 : index + 2], y[index - 1 : index + 2], 2)
    return float(np.clip(-b / (2 * a), x[index - 1], x[index + 1])) if a > 0 else float(x[index])


def drift_sentence(drift: Drift | None, key: str, over: str) -> str:
    """The answer in words."""
    key_name, over_name = short(key), short(over)
    if drift is None:
        return (
            f"The data do not decide whether the best {key_name} moves with {over_name}: that "
            f"takes two seeds and, at two values of {over_name}, three of {key_name}."
        )
    scale = math.log(2) if drift.log else 1.0
    unit = f"doubling of {over_name}" if drift.log else f"unit of {over_name}"
    slope, low, high = (v * scale for v in (drift.slope, drift.low, drift.high))
    slope_text = f"{slope:+.2f} a {unit} ({LEVEL:.0%}: {low:+.2f} to {high:+.2f})"
    optima = ", ".join(
        f"{row.optimum:.2f} at {value_label(row.over)}{' (edge)' if row.at_edge else ''}"
        for row in drift.table.itertuples()
    )
    if low > 0 or high < 0:
        direction = "grows" if slope > 0 else "falls"
        sentence = f"The best {key_name} {direction} with {over_name}: {slope_text}"
    else:
        undecided = f"The data do not decide whether the best {key_name} moves with {over_name}"
        sentence = f"{undecided}: {slope_text}"
    edges = int(drift.table["at_edge"].sum())
    warning = (
        f" {edges} of {len(drift.table)} optima lie at the edge of what was tried, so the slope is "
        "only that of the range." if edges else ""
    )  # fmt: skip
    beyond = control_sentence(drift, over_name, unit, scale=scale)
    return f"{sentence}; optima: {optima}.{beyond}{warning}"


def control_sentence(drift: Drift, over: str, unit: str, *, scale: float) -> str:
    """What is left of a drift without what a code without structure gives; empty without it."""
    if drift.control is None:
        return ""
    alone = drift.control * scale
    slope, low, high = (v * scale - alone for v in (drift.slope, drift.low, drift.high))
    found = f"{slope:+.2f} a {unit} ({LEVEL:.0%}: {low:+.2f} to {high:+.2f})"
    sentence = f" A random local code drifts by {alone:+.2f} a {unit}, (ln {over}) / 2"
    if low > 0 or high < 0:
        return f"{sentence}; beyond it the drift is {found}."
    return f"{sentence}; the data do not decide whether there is a drift beyond it: {found}."


def tradeoff_sentence(arm: ArmFrame, goals: list[Goal]) -> str:
    """Whether the first two metrics rank the points alike, over seeds."""
    name = f"{arm.name}: " if arm.name else ""
    one, two = goals[:2]
    done = arm.finished
    if not {one.name, two.name} <= set(done) or len(done) < 3:
        return f"{name}fewer than three points finished: whether the metrics agree is open."
    done = done.dropna(subset=[one.name, two.name])
    a, b = one.sign * done[one.name], two.sign * done[two.name]
    best = [point_label(arm, done.loc[values.idxmin()]) for values in (a, b)]
    rank = float(stats.spearmanr(a, b).statistic)
    interval = rank_interval(arm, one, two)
    sentence = (
        f"{name}best by {one.words}: {best[0]}; best by {two.words}: {best[1]}. The rank "
        f"correlation of the two (both better = +1) is {rank:+.2f}"
    )
    if interval is None:
        return (
            f"{sentence}; with one seed its uncertainty is not known, so this does not decide it."
        )
    low, high = interval
    sentence += f" ({LEVEL:.0%} of the seeds' noise: {low:+.2f} to {high:+.2f})"
    if low > 0:
        return f"{sentence}: they agree."
    if high < 0:
        return f"{sentence}: they disagree."
    return f"{sentence}: the data do not decide whether they agree."


def rank_interval(arm: ArmFrame, one: Goal, two: Goal) -> tuple[float, float] | None:
    """Of the rank correlation, from refits of the points' means with noise added."""
    tables = [seeds_table(arm, goal) for goal in (one, two)]
    trials = tables[0].index.intersection(tables[1].index)
    tables = [table.loc[trials] for table in tables]
    noises = [noise for table in tables if (noise := seed_noise(table)) is not None]
    if len(noises) < len(tables) or len(trials) < 3:
        return None
    draws = np.random.default_rng(0)
    refits = []
    for goal, table, noise in zip((one, two), tables, noises, strict=True):
        means = goal.sign * table.mean(1).to_numpy(float)
        error = noise.deviation / math.sqrt(table.shape[1])
        refits.append(means + error * draws.standard_t(noise.freedom, (REFITS, len(means))))
    ranks = [np.argsort(np.argsort(refit, 1), 1).astype(float) for refit in refits]
    centred = [r - r.mean(1, keepdims=True) for r in ranks]
    products = (centred[0] * centred[1]).sum(1) / np.sqrt(
        (centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1)
    )
    low, high = np.quantile(products, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def pareto_front(trials: pd.DataFrame, goals: list[Goal]) -> list[int]:
    """Trials that no other is at least as good as in every metric, and better in one."""
    names = [goal.name for goal in goals]
    if not set(names) <= set(trials):
        return []
    done = trials.dropna(subset=names)
    values = done[names].to_numpy(float) * np.array([goal.sign for goal in goals])
    front = []
    for index, mine in enumerate(values):
        beaten = ((values <= mine).all(1) & (values < mine).any(1)).any()
        if not beaten:
            front.append(int(done["trial"].iloc[index]))
    return front
