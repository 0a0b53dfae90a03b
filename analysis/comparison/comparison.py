"""Every curve of one study against every curve of another, in numbers and one figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.comparison.sides import Curves, Shared, Side, curves_of, shared_by
from analysis.floors.choice import FloorChoice
from analysis.plotting.variants import styles_of
from analysis.report.comparisons import Pair, compare_pair
from analysis.report.family_fits import floor_of
from analysis.report.plots import loss_against_compute
from analysis.report.tables import crossing_row, multiplier_row
from cola.errors import SpecError

OWN = "each study's own"  # convention of FLOPs, where two differ


@dataclass(frozen=True)
class Comparison:
    """`one` and `other` with their curves; `pairs` across the two; `notes`: curves that could not
    be fitted, and what the studies' own reports note."""

    one: Side
    other: Side
    shared: Shared
    curves: tuple[Curves, Curves]
    pairs: list[Pair]
    compute: str
    notes: list[str]
    floor: FloorChoice

    @property
    def caveat(self) -> str:
        """What stands at every multiplier."""
        texts = [*self.shared.differences, *self.shared.caveats]
        return f" [{'; '.join(texts)}]" if texts else ""

    @property
    def sentences(self) -> list[str]:
        """What the comparison rests on, and of every pair what it says."""
        return [self.floor.sentence, *self._of_pairs]

    @property
    def _of_pairs(self) -> list[str]:
        return [f"{text}{self.caveat}" for pair in self.pairs for text in pair.sentences]


def compare(one: Side, other: Side, *, different_data: bool) -> Comparison:
    """Fit both and compare.

    Raises:
        SpecError: their losses are of different texts, unless that is asked for; or no two curves
            can be compared.
    """
    shared = shared_by(one, other)
    if shared.differences and not different_data:
        raise SpecError(
            f"{one.name} and {other.name}: {'; '.join(shared.differences)}; compare them all the "
            "same with --different-data, which is said at every number"
        )
    compute = one.compute if one.compute == other.compute else OWN
    both = curves_of(one, compute), curves_of(other, compute)
    final = pd.concat([both[0].final, both[1].final])
    fits = both[0].fits | both[1].fits
    floor = floor_of(fits, final, compute, other_text=shared.other_text)
    pairs = [
        pair
        for first in both[0].fits.values()
        for second in both[1].fits.values()
        if (pair := compare_pair(first, second, final, compute=compute, shared=floor.frontiers))
        is not None
    ]
    notes = [
        f"{fit.label}: {warning}"
        for curves in both
        for fit in curves.fits.values()
        for warning in fit.warnings
    ]
    notes += [f"{side.name}: {note}" for side in (one, other) for note in side.frames.notes]
    if not pairs:
        raise SpecError(
            f"{one.name} and {other.name}: no two curves can be compared ({'; '.join(notes)})"
        )
    return Comparison(one, other, shared, both, pairs, compute, notes, floor)


def figure_of(found: Comparison) -> Figure:
    """Runs and curves of both."""
    final = pd.concat([each.final for each in found.curves])
    families = found.curves[0].families | found.curves[1].families
    return loss_against_compute(
        final,
        found.curves[0].fits | found.curves[1].fits,
        styles_of(
            {name: family for name, family in families.items() if name in set(final["variant"])}
        ),
        column="nll",
        label="NLL, nats/token",
        compute=found.compute,
        lines={},
    )


def as_json(found: Comparison) -> dict[str, Any]:
    """For programs."""
    return {
        "first": found.one.name,
        "second": found.other.name,
        "compute": found.compute,
        "differences": found.shared.differences,
        "caveats": found.shared.caveats,
        "floor": found.floor.as_json(),
        "curves": [
            {
                "curve": fit.label,
                "law": None if fit.fit is None else fit.fit.law.name,
                "formula": fit.formula,
                "kind": fit.kind,
                "points": 0 if fit.fit is None else len(fit.fit.points),
            }
            for curves in found.curves
            for fit in curves.fits.values()
        ],
        "pairs": [
            {
                "first": pair.one.label,
                "second": pair.other.label,
                "meaning": "compute of the first over compute of the second for the same loss",
                "floor": pair.floor,
                **multiplier_row(pair.multiplier),
                "at_true_nll": pair.one_sided,
                **crossing_row(pair.crossing),
                "sentences": list(pair.sentences),
            }
            for pair in found.pairs
        ],
        "notes": found.notes,
    }
