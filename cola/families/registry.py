"""The families there are: the built-in ones, and those that other packages add (torch-free).

A package adds a family by an entry point of the group `cola.families`, named after the family, that
is a `FamilyDefinition` object. One that cannot be loaded costs nobody but who uses its name. All
that lies outside this folder knows families through this module alone.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Union

from cola.errors import SpecError
from cola.families.ar.definition import AR
from cola.families.bd3lm.definition import BD3LM
from cola.families.cola.definition import COLA
from cola.families.embedding_diffusion.definition import EMBEDDING_DIFFUSION
from cola.families.interface.definition import FamilyDefinition, Look, seed_of
from cola.families.llada.definition import LLADA
from cola.families.multimodal.definition import MULTIMODAL
from cola.records import SOLVER_DIFFERENCE, Metric, NllKind, nll_kind_of, weakest_kind
from cola.spec import LikelihoodSpec

if TYPE_CHECKING:
    from cola.families.interface.family import Family

GROUP = "cola.families"
IMPORTED = "imported"  # of runs that another project trained: no family of the registry
IMPORTED_LOOK = Look(colour="#CC79A7", line="-", marker="D")
BUILT_IN: tuple[FamilyDefinition, ...] = (
    AR,
    LLADA,
    COLA,
    BD3LM,
    EMBEDDING_DIFFUSION,
    MULTIMODAL,
)


@dataclass(frozen=True)
class Registry:
    """Families by name, the built-in ones first; `broken` says why a name cannot be used."""

    families: Mapping[str, FamilyDefinition]
    broken: Mapping[str, str]


def names() -> tuple[str, ...]:
    """Names of all families, the built-in ones first."""
    return tuple(registry().families)


def definitions() -> tuple[FamilyDefinition, ...]:
    """All families, in the order of `names`."""
    return tuple(registry().families.values())


def definition_of(name: str) -> FamilyDefinition:
    """The torch-free half of a family.

    Raises:
        SpecError: for an unknown name, and for a package's family that cannot be loaded.
    """
    found = registry()
    if name in found.broken:
        raise SpecError(found.broken[name])
    if name not in found.families:
        close = difflib.get_close_matches(name, found.families, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SpecError(f"unknown family {name!r}; valid: {', '.join(found.families)}{hint}")
    return found.families[name]


def family_of(name: str) -> Family:
    """The half with torch of the family of that name.

    Raises:
        SpecError: see `definition_of`.
    """
    return definition_of(name).implementation()


def judges() -> list[str]:
    """Families whose models can judge texts: by an exact likelihood of one pass."""
    return [family.name for family in definitions() if family.exact_in_one_pass]


def union_of(part: str) -> Any:
    """The union over all families of their `settings`, `model` or `objective` types."""
    return Union[tuple(getattr(family, part) for family in definitions())]  # noqa: UP007


def has_likelihood(family: str, model: Any, settings: LikelihoodSpec) -> bool:
    """Whether such a model (its specification, or the entry's settings) has an NLL."""
    return definition_of(family).nll_kind(model, settings) is not None


def measured_kind(
    family: str, declared: NllKind | None, values: Mapping[str, Any]
) -> NllKind | None:
    """What a run's NLL is, by its metrics: `declared` by its settings, and an estimate where a
    solver's error is not known to be small, on the validation split or, where it was tested, on the
    test split."""
    solved = definition_of(family).likelihood_is_solved
    if declared is None or not solved or values.get(Metric.NLL) is None:
        return declared
    key = Metric.val(SOLVER_DIFFERENCE)
    differences = [values.get(key)]
    if Metric.on_test(key) in values:
        differences.append(values[Metric.on_test(key)])
    kinds = [nll_kind_of(declared, math.nan if d is None else float(d)) for d in differences]
    return weakest_kind(kinds)


def place_of(name: str) -> int:
    """The family's place among all, for orders that every study shares; imported runs come last."""
    return len(names()) if name == IMPORTED else names().index(name)


def look_of(name: str) -> Look:
    """How a family's curves are drawn, imported runs included."""
    return IMPORTED_LOOK if name == IMPORTED else definition_of(name).look


def curve_label(curve: str, family: str) -> str:
    """A curve's name for people: the family's label, or the name that a study gave its variant."""
    return definition_of(family).label if curve == family != IMPORTED else curve


def curve_seed(curve: str, family: str) -> int:
    """Seed of a curve's refits, the same whichever other curves and families there are."""
    own = curve == family != IMPORTED
    return definition_of(family).bootstrap_seed if own else seed_of(curve)


@cache
def registry() -> Registry:
    """The built-in families and those of the installed packages."""
    return registry_of(entry_points(group=GROUP))


def registry_of(found: Any) -> Registry:
    """The built-in families and those of some entry points."""
    families = {family.name: family for family in BUILT_IN}
    broken: dict[str, str] = {}
    owners: dict[str, str] = {}
    for entry in sorted(found, key=lambda entry: (entry.name, package_of(entry))):
        name, package = entry.name, package_of(entry)
        owner = owners.get(name, "cola-scaling" if name in families else None)
        if owner == package:
            continue  # listed twice on the path
        owners[name] = package
        if owner is not None:
            broken[name] = (
                f"family {name!r} comes from {owner} and from {package}; uninstall one of them"
            )
            continue
        try:
            families[name] = loaded(entry)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            broken[name] = (
                f"family {name!r} of package {package} cannot be loaded ({entry.value}: "
                f"{type(error).__name__}: {reason}); repair the package or uninstall it"
            )
    return Registry({n: f for n, f in families.items() if n not in broken}, broken)


def loaded(entry: EntryPoint) -> FamilyDefinition:
    """The entry point's object.

    Raises:
        TypeError: where it is no definition, or that of a family of another name.
    """
    family = entry.load()
    if not isinstance(family, FamilyDefinition):
        raise TypeError(f"is a {type(family).__name__}, not a FamilyDefinition object")
    if family.name != entry.name:
        raise TypeError(f"defines the family {family.name!r}, not {entry.name!r}")
    for part in ("settings", "model", "objective"):
        default = getattr(family, part).model_fields["family"].default
        if default != family.name:
            raise TypeError(f"{part}.family must be a Literal with the default {family.name!r}")
    return family


def package_of(entry: EntryPoint) -> str:
    """Name and version of the package that an entry point belongs to."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown"
