"""Budgets of a study's entries: the shared ladder or design, a multiple of it, or an own ladder.

The checks raise ValueErrors that name the key, for the study's validators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cola.errors import first_of
from cola.families.interface.specs import FamilySettings
from cola.spec.design import LARGEST_BUDGET, UNIT_KEYS, Parameters, RulesSpec, Rung, Unit
from cola.study.designs import Design

Entries = Mapping[str, FamilySettings]
Ladders = Mapping[str, Sequence[Rung]]


def shared_rungs(
    ladder: Sequence[Rung], design: Design | None, parameters: Parameters, *, factor: float | None
) -> list[Rung]:
    """The study's rungs, with every budget times `factor` (None: as they are).

    Sizes of a ladder stay; those of an IsoFLOP design follow from the multiplied budgets.
    """
    if design is None:
        return list(ladder) if factor is None else [rung.times(factor) for rung in ladder]
    if factor is not None:
        budgets = [budget * factor for budget in design.budgets]
        design = design.model_copy(update={"budgets": budgets})
    return design.rungs(parameters)


def check_given(entries: Entries, ladder: Sequence[Rung], design: Design | None) -> None:
    """Every entry has budgets, and from one place alone."""
    if ladder and design is not None:
        raise ValueError("give either ladder (budgets with sizes) or design (budgets alone)")
    for name, entry in entries.items():
        if entry.ladder is not None and entry.budget_factor is not None:
            raise ValueError(
                f"families.{name}.budget_factor={entry.budget_factor:g}: multiplies the study's "
                f"ladder, and families.{name}.ladder takes its place; give one of them"
            )
        if entry.ladder is not None and design is not None:
            raise ValueError(
                f"families.{name}.ladder: the study has a design, which holds for every entry; "
                f"give families.{name}.budget_factor, or a ladder in place of the design"
            )
        _check_factor(name, entry, ladder, design)
    own = [name for name, entry in entries.items() if entry.ladder is not None]
    if ladder and len(own) == len(entries):
        raise ValueError("ladder: every entry of families has a ladder of its own; leave it out")
    if not ladder and design is None and len(own) < len(entries):
        rest = [name for name in entries if name not in own]
        where = f" (or families.{rest[0]}.ladder)" if own else ""
        raise ValueError(
            f"give either ladder (budgets with sizes) or design (budgets alone){where}"
        )


def _check_factor(
    name: str, entry: FamilySettings, ladder: Sequence[Rung], design: Design | None
) -> None:
    factor = entry.budget_factor
    if factor is None:
        return
    where = f"families.{name}.budget_factor={factor:g}"
    try:
        for rung in ladder:
            rung.times(factor)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    most = max(design.budgets, default=0.0) * factor if design is not None else 0.0
    if most > LARGEST_BUDGET:
        raise ValueError(f"{where}: takes a budget of design to {most:.3g}, above 1e30")


def check_units(
    entries: Entries, ladder: Sequence[Rung], design: Design | None, *, compute: str
) -> None:
    """Every rung counts what `matching.compute` says."""
    unit: Unit = "steps" if compute == "steps" else "tokens" if compute == "tokens" else "flops"
    if design is not None and unit != "flops":
        raise ValueError(
            f"design: its budgets are FLOPs, and matching.compute={compute}; give a ladder in "
            f"{compute}, or matching.compute: executed or nominal"
        )
    for path, rung in _paths(entries, ladder):
        if rung.unit != unit:
            counted = f"budgets in {compute} FLOPs" if unit == "flops" else compute
            given = UNIT_KEYS[rung.unit]
            other = "executed or nominal" if rung.unit == "flops" else rung.unit
            raise ValueError(
                f"{path}.{given}={rung.amount:.10g}: matching.compute={compute} takes {counted}; "
                f"give {path}.{UNIT_KEYS[unit]} in its place, or matching.compute: {other}"
            )


def _paths(entries: Entries, ladder: Sequence[Rung]) -> Iterator[tuple[str, Rung]]:
    """Every rung that was written, with its key."""
    yield from ((f"ladder.{index}", rung) for index, rung in enumerate(ladder))
    for name, entry in entries.items():
        for index, rung in enumerate(entry.ladder or ()):
            yield f"families.{name}.ladder.{index}", rung


def check_batch_rules(entries: Entries, shared: RulesSpec, compute: str) -> None:
    """A batch that follows from FLOPs would decide the FLOPs that follow from steps."""
    if compute != "steps":
        return
    rules = {f"families.{name}.rules": entry.rules for name, entry in entries.items()}
    for where, found in ({"rules": shared} | rules).items():
        if found is not None and found.batch_tokens is not None:
            raise ValueError(
                f"{where}.batch_tokens: with matching.compute=steps FLOPs follow from the batch, "
                "so it cannot follow from them; give training.batch_sequences, or "
                "matching.compute: tokens"
            )


def check_shared_amounts(ladders: Ladders, compute: str) -> None:
    """With `matching.compute` of steps or tokens, each entry shares an amount with another one."""
    for name, rungs in ladders.items():
        mine = {rung.amount for rung in rungs}
        others = {
            rung.amount for other, found in ladders.items() if other != name for rung in found
        }
        if others and not mine & others:
            raise ValueError(
                f"families.{name}: its {compute} ({_listed(mine)}) are those of no other entry "
                f"({_listed(others)}), so nothing is compared at equal {compute}; give a rung in "
                "common, or matching.compute: executed or nominal"
            )


def check_overlap(entries: Entries, ladders: Ladders) -> None:
    """A ladder that was written for an entry overlaps with the budgets of another entry."""
    spans = {
        name: (min(rung.amount for rung in rungs), max(rung.amount for rung in rungs))
        for name, rungs in ladders.items()
    }
    for name, entry in entries.items():
        others = [span for other, span in spans.items() if other != name]
        if entry.ladder is None or not others:
            continue
        low, high = spans[name]
        if not any(other[0] <= high and low <= other[1] for other in others):
            found = ", ".join(f"{a:.3g} to {b:.3g}" for a, b in dict.fromkeys(others))
            raise ValueError(
                f"families.{name}.ladder: its budgets ({low:.3g} to {high:.3g}) overlap with those "
                f"of no other entry ({found}); give budgets that overlap, or matching.budgets: "
                "offset where curves are to meet in their losses alone"
            )


def _listed(amounts: set[float]) -> str:
    """The first few, from small to large."""
    return first_of([f"{amount:.10g}" for amount in sorted(amounts)], 4)
