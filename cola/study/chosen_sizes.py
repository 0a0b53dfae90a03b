"""Sizes that a design chooses, where families can have them (torch-free).

A family's parts come in whole heads and layers, so that small sizes have gaps. What a person asks
for by number is refused there; what a design has chosen is moved to the next size that all families
can have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cola.data.tokenizer import vocab_size_of
from cola.errors import SpecError
from cola.families.interface.specs import FamilySettings
from cola.families.registry import definition_of
from cola.spec.design import Rung
from cola.study.designs import FromFitDesign, IsoFLOPDesign
from cola.study.latent_rules import settings_at_rung
from cola.study.study import StudySpec

STEPS = 20  # of a twentieth each, in which a size is looked for up to twice the one wanted
LEAST_SIZES = 3  # of a profile: through fewer goes no parabola

Ladder = dict[int, Rung]  # by place


def ladders_of(study: StudySpec) -> dict[str, Ladder]:
    """Each entry's rungs by their place in its ladder, where a design chose them in sizes that can
    be built; those that would be a neighbour again are left out.

    Raises:
        SpecError: a budget of a design is too small for its sizes.
    """
    ladders = {variant: dict(enumerate(study.rungs_of(variant))) for variant in study.families}
    if not isinstance(study.design, IsoFLOPDesign | FromFitDesign):
        return ladders
    shared = [variant for variant, own in study.families.items() if not own.ladder]
    sizes = possible_sizes(study, {variant: ladders[variant] for variant in shared})
    key = f"{study.matching.parameters}_parameters"
    for variant in shared:
        ladders[variant] = {
            place: rung.model_copy(update={key: sizes[place]})
            for place, rung in ladders[variant].items()
            if place in sizes
        }
    return ladders


def moved_sizes(study: StudySpec) -> list[tuple[int, int | None]]:
    """Sizes that a study's design chose and that cannot be built, in the order of its rungs: each
    with what is trained in its place, None where that is a neighbour's."""
    ladders, moved = ladders_of(study), dict[int, tuple[int, int | None]]()
    for variant in study.families:
        for place, rung in enumerate(study.rungs_of(variant)):
            taken = ladders[variant].get(place)
            if rung.target is not None and taken != rung:
                moved[place] = rung.target, None if taken is None else taken.target
    return [moved[place] for place in sorted(moved)]


def moved_cautions(study: StudySpec) -> list[str]:
    """Those sizes as a sentence; none where there are none."""
    texts = [
        f"{size:,} ({'left out' if taken is None else f'{taken:,} in its place'})"
        for size, taken in moved_sizes(study)
    ]
    if not texts:
        return []
    return [f"sizes of the design that not every family can have: {', '.join(texts)}"]


def possible_sizes(study: StudySpec, ladders: dict[str, Ladder]) -> dict[int, int]:
    """Of these ladders with the same sizes: the size at each place that is kept.

    Raises:
        SpecError: a budget has too few of them.
    """
    first = next(iter(ladders.values()), {})
    taken: dict[float, dict[int, int]] = {}
    problems: dict[float, SpecError] = {}
    for place, rung in first.items():
        mine = taken.setdefault(rung.amount, {})
        at_rung = [settings_at_rung(study, name, ladders[name][place]) for name in ladders]
        try:
            size = buildable(study, int(rung.target or 0), [each.settings for each in at_rung])
        except SpecError as error:
            problems.setdefault(rung.amount, error)
            continue
        if size not in mine.values():
            mine[place] = size
    for budget, mine in taken.items():
        check_enough(study, budget, len(mine), problems.get(budget))
    return {place: size for mine in taken.values() for place, size in mine.items()}


def check_enough(study: StudySpec, budget: float, count: int, problem: SpecError | None) -> None:
    """Refuse a budget at which too few of a design's sizes can be built; `problem`: of one that
    cannot.

    Raises:
        SpecError: with what helps.
    """
    profile = isinstance(study.design, IsoFLOPDesign)
    if count >= (LEAST_SIZES if profile else 1):
        return
    needs = f", and a profile needs {LEAST_SIZES}" if profile else ""
    helps = "larger budgets, or a lower tokens_per_parameter" if profile else "larger budgets"
    why = "" if problem is None else f" ({str(problem).partition(';')[0]})"
    raise SpecError(
        f"design.budgets: at {budget:g} FLOPs {count} of the sizes that the design chooses can be "
        f"built by every family{needs}; use {helps}{why}"
    )


def buildable(study: StudySpec, size: int, settings: Iterable[FamilySettings] | None = None) -> int:
    """The first size from `size` on, up to twice it, at which every family has a shape; sizes are
    of core or total parameters as the study matches them.

    `settings`: of the families, by default the study's.

    Raises:
        SpecError: when there is none.
    """
    vocab_size = vocab_size_of(study.data)
    asked = list(study.families.values() if settings is None else settings)
    refusal: SpecError | None = None
    for candidate in candidates(size):
        try:
            for each in asked:
                family = definition_of(each.family)
                total = study.matching.parameters == "total"
                (family.size_by_total if total else family.size)(candidate, vocab_size, each)
        except SpecError as error:
            refusal = refusal or error
            continue
        return candidate
    raise refusal or SpecError(f"{size}: is no size")


def candidates(size: int) -> Iterator[int]:
    """Sizes in which one is looked for."""
    return (size + step * size // STEPS for step in range(STEPS + 1))
