"""The entries of a plan side by side: their budgets, sums, shapes and what they have equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from cola.families.registry import curve_label, definition_of
from cola.study import StudySpec
from orchestration.planning.plan import PlannedRun

SHARE_APART = 0.02  # chosen: a larger change of the VAE's share of the core is worth a warning

Groups = list[list[PlannedRun]]


def counted(study: StudySpec) -> str:
    """What the study's budgets count, with the convention of FLOPs."""
    matching = study.matching
    return f"{matching.convention} FLOPs" if matching.unit == "flops" else matching.unit


def amounts_by_label(runs: Sequence[PlannedRun]) -> dict[str, list[float]]:
    """What the rungs of each curve count, by the curve's name for people."""
    amounts: dict[str, list[float]] = {}
    for run in runs:
        label = curve_label(run.variant, run.spec.family)
        amounts.setdefault(label, []).append(run.amount)
    return amounts


def by_variant(runs: Sequence[PlannedRun]) -> dict[str, list[PlannedRun]]:
    """The runs of each entry."""
    found: dict[str, list[PlannedRun]] = {}
    for run in runs:
        found.setdefault(run.variant, []).append(run)
    return found


def budgets_as_json(study: StudySpec, runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """What budgets count, the convention of FLOPs, and each entry's budgets."""
    amounts = {name: {run.amount for run in mine} for name, mine in by_variant(runs).items()}
    return {
        "count": study.matching.unit,
        "flops_convention": study.matching.convention,
        "of": {name: sorted(mine) for name, mine in amounts.items()},
        "shared_by_all": sorted(set.intersection(*amounts.values())),
    }


def family_totals(
    runs: Sequence[PlannedRun], corpus_tokens: int | None
) -> dict[str, dict[str, Any]]:
    """Sums over each entry's runs, and the most epochs of one (None: the corpus' size is not
    known)."""
    return {
        name: {
            "runs": len(mine),
            "steps": sum(run.spec.steps for run in mine),
            "tokens": sum(run.tokens for run in mine),
            "most_epochs": (
                max(run.tokens for run in mine) / corpus_tokens if corpus_tokens else None
            ),
            "train_flops": {
                convention: sum(run.train_flops(convention) for run in mine)
                for convention in ("nominal", "executed")
            },
        }
        for name, mine in by_variant(runs).items()
    }


def shape_cautions(runs: Sequence[PlannedRun]) -> list[str]:
    """Entries whose parts change their shares along the ladder, which bends a curve."""
    cautions = []
    for name, mine in by_variant(runs).items():
        shares = {}
        for run in mine:
            counts = definition_of(run.spec.family).parameter_counts(run.spec.model)
            shares[run.name] = counts.vae_core / counts.core
        low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        if shares[high] - shares[low] > SHARE_APART:
            cautions.append(
                f"the VAE's share of {name}'s core goes from {shares[low]:.1%} ({low}) to "
                f"{shares[high]:.1%} ({high}): shapes change along the ladder, which bends its "
                f"curve; choose other sizes, or families.{name}.vae_share"
            )
    return cautions


def spreads(study: StudySpec, runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Largest relative difference between entries of each quantity that may be matched.

    Runs are paired by the rung of the ladder that entries share. Where one has a ladder of its own
    or a factor, compute and data are compared at equal budgets, and by rung where none is equal;
    sizes by rung, or at equal budgets beside an own ladder. What has no pair is left out.
    """
    entries = study.families.values()
    own = any(entry.ladder is not None for entry in entries)
    factor = any(entry.budget_factor is not None for entry in entries)
    by_rung = [] if own else _paired(runs, [run.rung for run in runs])
    by_amount = _paired(runs, _places(runs)) if own or factor else by_rung
    sizes, compute = by_rung or by_amount, by_amount or by_rung
    found = {
        "core parameters": _spread(sizes, lambda run: run.core_parameters),
        "total parameters": _spread(sizes, lambda run: run.total_parameters),
        "executed FLOPs": _spread(compute, lambda run: run.train_flops("executed")),
        "nominal FLOPs": _spread(compute, lambda run: run.train_flops("nominal")),
        "tokens": _spread(compute, lambda run: run.tokens),
    }
    if study.matching.unit == "steps":
        found["steps"] = _spread(compute, lambda run: run.spec.steps)
    return {name: value for name, value in found.items() if value is not None}


def compared_at(study: StudySpec, runs: Sequence[PlannedRun]) -> str:
    """Where `spreads` compares compute and data, with a leading space; empty: at every rung."""
    own = any(entry.ladder or entry.budget_factor for entry in study.families.values())
    return " at equal budgets" if own and _paired(runs, _places(runs)) else ""


def _places(runs: Sequence[PlannedRun]) -> list[tuple[float, int]]:
    """Each run's budget, and which of the entry's sizes at that budget it is."""
    seen: Counter[tuple[str, int, float]] = Counter()
    places = []
    for run in runs:
        key = (run.variant, run.spec.seed, run.amount)
        places.append((run.amount, seen[key]))
        seen[key] += 1
    return places


def _paired(runs: Sequence[PlannedRun], places: Sequence[Hashable]) -> Groups:
    """Runs of one seed at an equal place, of several entries where the study has several."""
    groups: dict[tuple[Hashable, int], list[PlannedRun]] = {}
    for run, place in zip(runs, places, strict=True):
        groups.setdefault((place, run.spec.seed), []).append(run)
    least = min(2, len(by_variant(runs)))
    return [group for group in groups.values() if len(by_variant(group)) >= least]


def _spread(groups: Groups, value: Callable[[PlannedRun], float]) -> float | None:
    """Largest relative difference within a group; None where there is no group."""
    values = [[float(value(run)) for run in group] for group in groups]
    return max((max(found) / min(found) - 1 for found in values), default=None)
