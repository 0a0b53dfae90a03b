"""Whether likelihood and generation tell the same of two families: the ratio of their multipliers.

The compute that one family needs over that of another, for the same loss and for the same score of
generation, need not agree: that they do not is what the paper calls a mismatch (arXiv 2605.06548).
Intervals here are 90%, so that each side of a verdict is wrong in one case of twenty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from analysis.fitting.compare import compare_compute, ends
from analysis.fitting.law import Array
from analysis.metric_report.content import Panel
from analysis.metric_report.curves import MetricCurve
from analysis.metric_report.quantities import Quantity
from analysis.report.comparisons import times_text

LEVEL = 0.9
TAIL = (1 - LEVEL) / 2
SEED = 3  # of the order in which refits of one metric meet those of the other


@dataclass(frozen=True)
class Multiple:
    """Compute of a family over that of another for the same value `at` of a quantity.

    `value`: None where the two reach no value in common within their budgets; then one of `low` and
    `high` is finite, as far as the refits agree on the order, and `needs` says what would measure
    it. draws: (K,) of the refits, empty without a value.
    """

    quantity: str
    at: str
    value: float | None
    low: float
    high: float
    draws: Array
    needs: str = ""

    @property
    def text(self) -> str:
        """The number with its interval, for people."""
        if self.value is not None:
            return f"{times_text(self.value)} times (90% interval {interval_text(self)})"
        if np.isfinite(self.high):
            return f"at most {times_text(self.high)} times"
        return f"at least {times_text(self.low)} times" if self.low > 0 else "not bounded"


@dataclass(frozen=True)
class Mismatch:
    """The multiplier by a loss over that by a score of generation; above 1 the first family looks
    worse by its likelihood than it writes. `value` is None where one of the two is only bounded;
    `decided`: its 90% interval leaves out 1."""

    one: str
    other: str
    labels: tuple[str, str]
    likelihood: Multiple
    generation: Multiple
    value: float | None
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether likelihood and generation are known to disagree."""
        return self.low > 1 or self.high < 1

    @property
    def sentence(self) -> str:
        """What is known, and where it is not, what would decide it."""
        one, other = self.labels
        start = (
            f"{one} needs {self.likelihood.text} the compute of {other} for {self.likelihood.at}, "
            f"and {self.generation.text} for {self.generation.at}"
        )
        return f"{start}: {self._ratio}, {self._verdict}."

    @property
    def _ratio(self) -> str:
        if self.value is not None:
            return f"a ratio of {times_text(self.value)} (90% interval {interval_text(self)})"
        if self.low > 0:
            return f"a ratio of at least {times_text(self.low)}"
        if np.isfinite(self.high):
            return f"a ratio of at most {times_text(self.high)}"
        return "their ratio is not bounded"

    @property
    def _verdict(self) -> str:
        if self.low > 1:
            return f"so {self.labels[0]} generates better than its likelihood says"
        if self.high < 1:
            return f"so {self.labels[0]} generates worse than its likelihood says"
        needs = [each.needs for each in (self.likelihood, self.generation) if each.needs]
        if needs:
            return f"which does not decide whether the two disagree; {'; '.join(needs)}"
        return f"which does not decide whether the two disagree{self._more_runs}"

    @property
    def _more_runs(self) -> str:
        """How many runs would shrink the interval until it leaves out 1, at this ratio."""
        if self.value is None or not (self.low > 0 and np.isfinite(self.high)):
            return ""
        width = np.log(self.high / self.low) / 2
        times = (width / max(abs(np.log(self.value)), 1e-9)) ** 2
        if times > 100:
            return ": the ratio is too near to 1 for more runs to tell"
        return f": at this ratio about {np.ceil(times):.0f} times as many runs would"

    def as_json(self) -> dict[str, Any]:
        """For programs; null: not known, or open."""
        parts = {
            name: {k: v for k, v in asdict(each).items() if k != "draws"}
            for name, each in (("likelihood", self.likelihood), ("generation", self.generation))
        }
        return {
            "one": self.one,
            "other": self.other,
            "labels": list(self.labels),
            "level": LEVEL,
            **parts,
            "ratio": {"estimate": self.value, "interval": [self.low, self.high]},
            "decided": self.decided,
            "sentence": self.sentence,
        }


def mismatches(panels: Sequence[Panel]) -> list[Mismatch]:
    """Of each loss and each score with a ceiling, every pair of families that has both curves."""
    losses = [each for each in panels if each.found.quantity.range is None]
    scores = [each for each in panels if each.found.quantity.range is not None]
    return [
        mismatch(loss, score, other, one)
        for loss in losses
        for score in scores
        for one, other in combinations(loss.curves, 2)
        if all(_has(each, name) for each in (loss, score) for name in (one, other))
    ]


def _has(panel: Panel, variant: str) -> bool:
    return variant in panel.curves and panel.curves[variant].curve is not None


def mismatch(loss: Panel, score: Panel, one: str, other: str) -> Mismatch:
    """The ratio of `one`'s multiplier over `other` by a loss to that by a score.

    The refits of the two are taken as independent. Errors that runs have in common in both would
    cancel in the ratio, so that its interval is rather too wide.
    """
    likelihood, generation = (
        multiple(each.found.quantity, each.curves[one], each.curves[other])
        for each in (loss, score)
    )
    pair = loss.curves[one], loss.curves[other]
    labels = (_named(pair[0]), _named(pair[1]))
    if likelihood.value is None or generation.value is None:
        with np.errstate(divide="ignore", invalid="ignore"):
            low = float(np.divide(likelihood.low, generation.high))
            high = float(np.divide(likelihood.high, generation.low))
        ends = (low if np.isfinite(low) else 0.0, high if np.isfinite(high) else float("inf"))
        return Mismatch(one, other, labels, likelihood, generation, None, *ends)
    order = np.random.default_rng(SEED)
    count = min(len(likelihood.draws), len(generation.draws))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = likelihood.draws[:count] / order.permutation(generation.draws)[:count]
        value = likelihood.value / generation.value
    return Mismatch(one, other, labels, likelihood, generation, value, *_ends(ratio))


def _named(curve: MetricCurve) -> str:
    return curve.label + ("" if curve.kind == "exact" else f" ({curve.kind})")


def multiple(quantity: Quantity, one: MetricCurve, other: MetricCurve) -> Multiple:
    """Compute of `one` over that of `other` for the same value, with its 90% interval."""
    if one.curve is None or other.curve is None:
        raise ValueError("both must have a curve")
    found = compare_compute(one.curve, other.curve)
    at = quantity.shown(found.at)
    if found.value is not None:
        first, second = (each.compute_for(found.at) for each in (one.curve, other.curve))
        count = min(len(first), len(second))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            draws = np.asarray(first[1:count] / second[1:count])
        return Multiple(quantity.title, at, found.value, *_ends(draws), draws)
    leads = found.bound == "at least"  # `other` needs less
    agreed = found.supported_by is not None and found.supported_by >= 1 - TAIL
    low = found.low if leads and agreed else 0.0
    high = float("inf") if leads or not agreed else found.high
    better, worse = (other, one) if leads else (one, other)
    return Multiple(
        quantity.title, at, None, low, high, np.empty(0), _needs(quantity, better, worse)
    )


def _needs(quantity: Quantity, better: MetricCurve, worse: MetricCurve) -> str:
    """Smaller budgets of the better family with which the two would meet."""
    ahead, behind = better.curve, worse.curve
    if ahead is None or behind is None:
        raise ValueError("both must have a curve")
    reached = float(behind.values(np.array([behind.span[1]]))[0, 0])
    there = float(ahead.compute_for(reached)[0])
    start, name = ahead.span[0], quantity.title
    if not 0 < there < start:
        return f"by {name} {better.label} needs runs at smaller budgets"
    return f"by {name} {better.label} needs runs from {there:.1g} FLOPs on, below its {start:.1g}"


def _ends(draws: Array) -> tuple[float, float]:
    """90% interval of ratios that may be infinite; open where over a tenth are not known."""
    low, high = ends(draws, LEVEL)
    return (0.0, float("inf")) if np.isnan(low) else (low, high)


def interval_text(found: Multiple | Mismatch) -> str:
    """An interval, whose upper end may be open."""
    high = times_text(found.high) if np.isfinite(found.high) else "no end"
    return f"{times_text(found.low)} to {high}"
