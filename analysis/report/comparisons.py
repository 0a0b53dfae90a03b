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
from analysis.report.family_fits import SAMPLES, SEED, FamilyFit, best_size_runs, fit_points
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
    return [
        pair
        for one, other in combinations(fits.values(), 2)
        if (pair := compare_pair(one, other, final, compute=compute)) is not None
    ]


def compare_pair(
    one: FamilyFit, other: FamilyFit, final: pd.DataFrame, *, compute: str
) -> Pair | None:
    """What two curves say of each other; None where one of them could not be fitted."""
    if one.refits is None or other.refits is None:
        return None
    name = f"{other.label} against {one.label}"
    caveat = bound_caveat(one, other)
    if not losses_overlap(one.refits.fit, other.refits.fit):
        sentence = (
            f"{name}: no loss is reached by both, so their compute cannot be compared.{caveat}"
        )
        return Pair(
            one, other, None, (sentence, *exponent_sentence(one, other, final, compute=compute))
        )
    measured = [refits.fit.points.loss for refits in (one.refits, other.refits)]
    loss = float(np.sqrt(max(map(np.min, measured)) * min(map(np.max, measured))))
    multiplier = multiplier_at(one.refits, other.refits, loss)
    sentences = [f"{name}: {describe_multiplier(multiplier, loss)}{caveat}"]
    crossing = crossover(one.refits, other.refits)
    if crossing is not None:
        sentences.append(f"{name}: {describe_crossover(crossing)}")
    sentences += exponent_sentence(one, other, final, compute=compute)
    return Pair(one, other, multiplier_curve(one.refits, other.refits), tuple(sentences))


def describe_multiplier(multiplier: Estimate, loss: float) -> str:
    """The compute multiplier at one loss."""
    if not np.isfinite(multiplier.value):
        return f"the compute for {loss:.3f} nats per token cannot be read off both curves."
    less, ratio = ("less", multiplier) if multiplier.value >= 1 else ("more", inverse(multiplier))
    decided = multiplier.low > 1 or multiplier.high < 1
    doubt = "" if decided else "; the interval contains 1, so the data do not decide it"
    return (
        f"{ratio.value:.2f} times {less} compute for {loss:.3f} nats per token (95% interval "
        f"{ratio.low:.2f} to {ratio.high:.2f}{doubt})."
    )


def inverse(multiplier: Estimate) -> Estimate:
    """1 / x, interval and all."""
    return Estimate(1 / multiplier.value, 1 / multiplier.high, 1 / multiplier.low)


def describe_crossover(crossing: Crossover) -> str:
    """Where the curves meet, and how sure it is that they do."""
    return (
        f"the fitted curves cross at {crossing.compute.value:.2g} FLOPs (95% interval "
        f"{crossing.compute.low:.2g} to {crossing.compute.high:.2g}; {crossing.share:.0%} of the "
        "refits cross at all)."
    )


def exponent_sentence(
    one: FamilyFit, other: FamilyFit, final: pd.DataFrame, *, compute: str
) -> tuple[str, ...]:
    """Difference of the exponents of both families' plain power laws: budgets resampled in pairs
    where there are enough, else by each family's own refits."""
    rows = [
        best_size_runs(fit_points(final[final["variant"] == fit.variant], compute))
        for fit in (one, other)
    ]
    try:
        difference = exponent_difference(
            "compute-power", rows[0], rows[1], name="gamma", samples=SAMPLES, seed=SEED
        )
        method = "budgets resampled in pairs"
    except FitError:
        refits = [fit.refits for fit in (one, other)]
        if any(of_one is None or of_one.fit.law.name != "compute-power" for of_one in refits):
            return ()
        gammas = [of_one.public[:, -1] for of_one in refits if of_one is not None]
        values = [of_one.fit.parameters["gamma"] for of_one in refits if of_one is not None]
        difference = Estimate(values[0] - values[1], *percentiles(gammas[0] - gammas[1]))
        method = "from each family's own scatter"
    if not np.isfinite(difference.low):
        return ()
    return (
        f"{other.label} against {one.label}: the exponents of plain power laws differ by "
        f"{-difference.value:+.4f} (95% interval {-difference.high:+.4f} to "
        f"{-difference.low:+.4f}, {method}).",
    )


def bound_caveat(one: FamilyFit, other: FamilyFit) -> str:
    """What a bound or an estimate does to a comparison of compute."""
    kinds = {fit.label: fit.kind for fit in (one, other)}
    estimates = [label for label, kind in kinds.items() if kind == "estimate"]
    bounds = [label for label, kind in kinds.items() if kind == "bound"]
    if estimates:
        return (
            f" ({' and '.join(estimates)} by an estimate of the NLL, on either side of the true "
            "one: what this does to the comparison is not known.)"
        )
    if len(bounds) == 2:
        return (
            f" ({' and '.join(bounds)} by upper bounds of the NLL: each needs less at its true "
            "NLL, and their ratio may be larger or smaller.)"
        )
    if bounds:
        return f" ({bounds[0]} by an upper bound of the NLL: at its true NLL it needs less.)"
    return ""
