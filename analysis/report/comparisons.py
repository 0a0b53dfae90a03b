"""What a report says of each pair of curves: multiplier, crossover, exponents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.compare import (
    Crossover,
    Estimate,
    crossover,
    exponent_difference,
    losses_overlap,
    multiplier_at,
    multiplier_curve,
)
from analysis.report.family_fits import SAMPLES, SEED, FamilyFit, fit_table, frontier
from cola.errors import FitError


@dataclass(frozen=True)
class Pair:
    """Two curves compared; None where they cannot be. `sentences` for people."""

    one: FamilyFit
    other: FamilyFit
    curve: pd.DataFrame | None
    sentences: tuple[str, ...]


def compare_pairs(fits: Mapping[str, FamilyFit], final: pd.DataFrame, compute: str) -> list[Pair]:
    """Every pair of families, or variants, that both have a curve."""
    fitted = [fit for fit in fits.values() if fit.refits is not None]
    return [compare_pair(one, other, final, compute) for one, other in combinations(fitted, 2)]


def compare_pair(one: FamilyFit, other: FamilyFit, final: pd.DataFrame, compute: str) -> Pair:
    """One pair."""
    assert one.refits is not None
    assert other.refits is not None
    name = f"{other.label} against {one.label}"
    caveat = bound_caveat(one, other)
    if not losses_overlap(one.refits.fit, other.refits.fit):
        said = f"{name}: no loss is reached by both, so their compute cannot be compared.{caveat}"
        return Pair(one, other, None, (said, *exponent_sentence(one, other, final, compute)))
    measured = [refits.fit.points.loss for refits in (one.refits, other.refits)]
    loss = float(np.sqrt(max(map(np.min, measured)) * min(map(np.max, measured))))
    times = multiplier_at(one.refits, other.refits, loss)
    sentences = [f"{name}: {describe_multiplier(times, loss)}{caveat}"]
    met = crossover(one.refits, other.refits)
    if met is not None:
        sentences.append(f"{name}: {describe_crossover(met)}")
    sentences += exponent_sentence(one, other, final, compute)
    return Pair(one, other, multiplier_curve(one.refits, other.refits), tuple(sentences))


def describe_multiplier(times: Estimate, loss: float) -> str:
    """The compute multiplier at one loss."""
    if not np.isfinite(times.value):
        return f"the compute for {loss:.3f} nats per token cannot be read off both curves."
    less, ratio = ("less", times) if times.value >= 1 else ("more", inverse(times))
    decided = times.low > 1 or times.high < 1
    doubt = "" if decided else "; the interval contains 1, so the data do not decide it"
    return (
        f"{ratio.value:.2f} times {less} compute for {loss:.3f} nats per token (95% interval "
        f"{ratio.low:.2f} to {ratio.high:.2f}{doubt})."
    )


def inverse(times: Estimate) -> Estimate:
    """1 / x, interval and all."""
    return Estimate(1 / times.value, 1 / times.high, 1 / times.low)


def describe_crossover(met: Crossover) -> str:
    """Where the curves meet, and how sure it is that they do."""
    return (
        f"the fitted curves cross at {met.compute.value:.2g} FLOPs (95% interval "
        f"{met.compute.low:.2g} to {met.compute.high:.2g}; {met.share:.0%} of the refits cross at "
        "all)."
    )


def exponent_sentence(
    one: FamilyFit, other: FamilyFit, final: pd.DataFrame, compute: str
) -> tuple[str, ...]:
    """Difference of the exponents of both families' plain power laws: budgets resampled in pairs
    where there are enough, else by each family's own refits."""
    rows = [
        frontier(fit_table(final[final["variant"] == fit.variant], compute)) for fit in (one, other)
    ]
    try:
        found = exponent_difference("compute-power", rows[0], rows[1], "gamma", SAMPLES, SEED)
        how = "budgets resampled in pairs"
    except FitError:
        refits = [fit.refits for fit in (one, other)]
        if any(each is None or each.fit.law.name != "compute-power" for each in refits):
            return ()
        gammas = [each.public[:, -1] for each in refits if each is not None]
        values = [each.fit.parameters["gamma"] for each in refits if each is not None]
        found = Estimate(values[0] - values[1], *percentiles(gammas[0] - gammas[1]))
        how = "from each family's own scatter"
    if not np.isfinite(found.low):
        return ()
    return (
        f"{other.label} against {one.label}: the exponents of plain power laws differ by "
        f"{-found.value:+.4f} (95% interval {-found.high:+.4f} to {-found.low:+.4f}, {how}).",
    )


def bound_caveat(one: FamilyFit, other: FamilyFit) -> str:
    """What a bound does to a comparison of compute."""
    bounds = [fit.label for fit in (one, other) if fit.kind == "bound"]
    if not bounds:
        return ""
    return f" ({' and '.join(bounds)} by an upper bound of the NLL: at its true NLL it needs less.)"
