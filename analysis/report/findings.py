"""What a study's frames give: curves, comparisons, IsoFLOP profiles, and what to know of them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.floors.choice import FloorChoice
from analysis.plotting.variants import Style, styles_of, variants_of
from analysis.report.comparisons import Pair, compare_pairs
from analysis.report.conventions import Conventions, conventions_of
from analysis.report.family_fits import FamilyFit, fit_families, floor_of, grouped_warnings
from analysis.report.reference import (
    floor_warnings,
    in_bits_per_byte,
    informative,
    lines_of,
    other_text,
)
from analysis.report.runs import StudyFrames
from analysis.report.tables import (
    Profiles,
    latent_warnings,
    profile_warnings,
    study_profiles,
)


@dataclass(frozen=True)
class Findings:
    """Results by curve. compute: the convention of the budgets. variants: each curve's family.

    lines: what guesses without a model give, in nats per token; bits: in bits per byte, with the
    compressor's.
    """

    final: pd.DataFrame
    compute: str
    variants: dict[str, str]
    styles: dict[str, Style]
    lines: dict[str, float]
    bits: dict[str, float]
    fits: dict[str, FamilyFit]
    pairs: list[Pair]
    profiles: Profiles
    conventions: Conventions
    floor: FloorChoice
    warnings: list[str]

    @property
    def labels(self) -> dict[str, str]:
        """Names of the curves for people."""
        return {variant: style.label for variant, style in self.styles.items()}


def findings_of(frames: StudyFrames) -> Findings:
    """Everything that is computed from a study with a finished run; no file is written."""
    compute = str(frames.runs["compute"].iloc[0])
    variants = variants_of(frames.runs)
    styles = styles_of(variants)
    final = frames.points[frames.points["is_final"]]
    lines = lines_of(frames.runs)
    fitted = final[informative(final, lines)]
    fits = fit_families(final, fitted, compute)
    profiles = study_profiles(fitted, compute)
    labels = {variant: style.label for variant, style in styles.items()}
    floor = floor_of(fits, fitted, compute, other_text=other_text(frames.runs))
    pairs = compare_pairs(fits, fitted, compute, floor.frontiers)
    return Findings(
        final,
        compute,
        variants,
        styles,
        lines,
        in_bits_per_byte(lines, frames.runs),
        fits,
        pairs,
        profiles,
        conventions_of(fitted, fits, pairs, compute=compute, floor=floor),
        floor,
        warnings=[
            *frames.notes,
            *floor_warnings(final, lines, labels),
            *latent_warnings(frames.runs, lines),
            *grouped_warnings(fits),
            *profile_warnings(profiles),
        ],
    )
