"""Two sets of runs side by side: their curves under names of their own, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.conditions.matching import common_order
from analysis.plotting.variants import styles_of, variants_of
from analysis.report.family_fits import FamilyFit, fit_family
from analysis.report.reference import informative, lines_of
from analysis.report.runs import StudyFrames
from cola.errors import SpecError
from cola.families.registry import IMPORTED
from cola.records import weakest_kind

DATA = ("corpus", "tokenizer", "sequence_length")  # of a study, what its losses are of
SAME_DIGITS = ".9g"  # chosen: of compute and losses of one run, which a table may round or derive
ALIKE = 1e-9  # nats a token by which guesses without a model may differ on the same text


@dataclass(frozen=True)
class Side:
    """A study's runs; `spec`: as it was run, where that is known."""

    name: str
    frames: StudyFrames
    spec: Mapping[str, Any] | None = None

    @property
    def compute(self) -> str:
        """The convention of its FLOPs."""
        return str(self.frames.runs["compute"].iloc[0])

    @property
    def imported(self) -> bool:
        """Whether its runs are another project's, whose keys say nothing of its training."""
        return bool((self.frames.runs["family"] == IMPORTED).any())

    @property
    def lines(self) -> dict[str, float]:
        """What guesses without a model give on the text of its scores."""
        return lines_of(self.frames.runs)


@dataclass(frozen=True)
class Curves:
    """Finished runs with their variants renamed, families by curve, and fits."""

    final: pd.DataFrame
    families: dict[str, str]
    fits: dict[str, FamilyFit]


def curves_of(side: Side, compute: str) -> Curves:
    """A side's curves as `STUDY: LABEL`; `compute` names the column of FLOPs that both have.

    Raises:
        SpecError: it has no finished run.
    """
    points = side.frames.points
    if points.empty or not points["is_final"].any():
        raise SpecError(f"study {side.name}: no run is finished yet, there is nothing to compare")
    own = variants_of(side.frames.runs)
    names = {variant: f"{side.name}: {style.label}" for variant, style in styles_of(own).items()}
    final = points[points["is_final"]]
    fitted = informative(final, side.lines)
    flops = final[f"train_flops_{side.compute}"]
    final = final.assign(variant=final["variant"].map(names), **{f"train_flops_{compute}": flops})
    families = {names[variant]: family for variant, family in own.items()}
    fits = {
        variant: fit_family(
            variant,
            family,
            final[fitted & (final["variant"] == variant)],
            kind=str(weakest_kind(final.loc[final["variant"] == variant, "nll_kind"])),
            compute=compute,
        )
        for variant, family in families.items()
        if (final["variant"] == variant).any()
    }
    return Curves(final, families, fits)


@dataclass(frozen=True)
class Shared:
    """What two sides have in common: differences that make their losses those of different texts,
    and what else a reader of a multiplier must know."""

    differences: list[str]
    caveats: list[str]
    known: bool = False  # that both losses are of the same text

    @property
    def other_text(self) -> str:
        """Why losses are, or may be, of different texts; empty where they are of one."""
        if self.differences:
            return "their losses are of different texts"
        return "" if self.known else "whether both losses are of the same text is not known"


def shared_by(one: Side, other: Side) -> Shared:
    """Compare evaluation text, data, order and conventions, as far as both record them."""
    differences, caveats = [], []
    lines = one.lines, other.lines
    if all(lines):
        apart = any(
            abs(lines[0].get(name, 0.0) - lines[1].get(name, 0.0)) > ALIKE
            for name in set(lines[0]) | set(lines[1])
        )
        if apart:
            differences.append(
                "their scores are of different text or tokens (guesses without a model differ: "
                f"{_guesses(lines[0])} against {_guesses(lines[1])})"
            )
    else:
        caveats.append("whether both losses are of the same text and tokenizer is not known")
    if one.frames.split != other.frames.split and all(lines):
        differences.append(
            f"their scores are of the {one.frames.split} and of the {other.frames.split} split"
        )
    differences += _data(one, other)
    caveats += _of_both(one, other)
    caveats += _order(one, other)
    if one.compute != other.compute:
        caveats.append(
            f"FLOPs are {one.compute} ones of {one.name} and {other.compute} ones of {other.name}"
        )
    return Shared(differences, caveats, known=all(lines))


def _of_both(one: Side, other: Side) -> list[str]:
    """Runs that both sides have: by their keys, or where one is imported by their numbers."""
    if not (one.imported or other.imported):
        count = len(set(one.frames.runs["run_key"]) & set(other.frames.runs["run_key"]))
        runs = "run is" if count == 1 else "runs are"
        return [f"{count} {runs} of both, so that their noise is not independent"] if count else []
    theirs = set(_numbers(other))
    count = sum(run in theirs for run in _numbers(one))
    if not count:
        return []
    runs = "run has" if count == 1 else "runs have"
    return [
        f"{count} {runs} the same parameters, tokens, compute and loss in both (where known), so "
        "that their noise is not independent"
    ]


def _numbers(side: Side) -> list[tuple[str, ...]]:
    """Of each finished run parameters, tokens, compute and loss; `nan`: not known."""
    points = side.frames.points
    columns = ["core_parameters", "tokens", f"train_flops_{side.compute}", "nll"]
    rows = points.loc[points["is_final"], columns].astype(float) if len(points) else points
    return [
        tuple(f"{value:{SAME_DIGITS}}" for value in row)
        for row in rows.itertuples(index=False, name=None)
    ]


def _guesses(lines: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in lines.items())


def _data(one: Side, other: Side) -> list[str]:
    specs = [(side.spec or {}).get("data") for side in (one, other)]
    if not all(isinstance(each, Mapping) for each in specs):
        return []
    first, second = ({} if each is None else each for each in specs)
    keys = [key for key in DATA if first.get(key) != second.get(key)]
    return [f"their studies differ in data.{key}" for key in keys]


def _order(one: Side, other: Side) -> list[str]:
    orders = {
        f"{side.name}/{run['run_id']}": run["data_order"]
        for side in (one, other)
        for _, run in side.frames.runs.iterrows()
        if run["status"] == "finished"
    }
    count, equal = common_order(orders)
    if count == 0:
        return ["that both read the same training data is not shown"]
    return [] if equal else [f"they read other data within the first {count:,} sequences"]
