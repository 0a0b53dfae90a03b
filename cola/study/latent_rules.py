"""Latents that follow from size and budget: an entry's settings at a rung (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass

from cola.data.tokenizer import vocab_size_of
from cola.errors import SpecError
from cola.families.interface.specs import FamilySettings, LatentError
from cola.families.registry import definition_of
from cola.spec.design import LatentRules, Rung
from cola.study.designs import TrajectoryDesign
from cola.study.study import StudySpec


@dataclass(frozen=True)
class RungSettings:
    """An entry's settings at a rung; `ruled` are the keys of its latents that rules have set."""

    settings: FamilySettings
    ruled: tuple[str, ...] = ()


def settings_at_rung(study: StudySpec, variant: str, rung: Rung) -> RungSettings:
    """The entry's settings with its rules for latents applied at this size and budget.

    The rung's target counts as the size, of a published row its core parameters with the entry's
    own latents. In a trajectory the largest budget counts, so that all points are one model.

    Raises:
        SpecError: naming the rule that gives a value which its key cannot have.
    """
    settings, rules = study.families[variant], study.rules_of(variant).latent
    keys = ruled_keys(settings, rules)
    if rules is None or not keys:
        return RungSettings(settings)
    size = rung.target or published_core(study, settings)
    budget = _budget(study, variant, rung)
    values = {key: value_at(rules, key, size, budget=budget) for key in keys}
    try:
        changed = settings.with_latents(values, study.data.sequence_length)
    except LatentError as error:
        path = rule_path(settings, variant, error.key)
        raise SpecError(
            f"{path}: at {size:.3g} parameters and {budget:.3g} FLOPs the rule {error.problem}"
        ) from None
    return RungSettings(changed, keys)


def _budget(study: StudySpec, variant: str, rung: Rung) -> float:
    """Training FLOPs that count for the rules."""
    if isinstance(study.design, TrajectoryDesign):
        return study.rungs_of(variant)[-1].amount
    return rung.amount


def ruled_keys(settings: FamilySettings, rules: LatentRules | None) -> tuple[str, ...]:
    """The keys of an entry's latents that rules set; none where its family has no latents."""
    return tuple(key for key in settings.latent_keys if getattr(rules, key, None) is not None)


def value_at(rules: LatentRules, key: str, size: float, *, budget: float) -> float:
    """A rule's value; infinite where it is beyond what a number holds."""
    try:
        return float(getattr(rules, key).value(size, budget))
    except OverflowError:
        return float("inf")


def rule_path(settings: FamilySettings, variant: str, key: str) -> str:
    """Path of the key that has the rule: the entry's own, or the study's."""
    own = settings.rules.latent if settings.rules is not None else None
    mine = getattr(own, key, None) is not None
    return f"families.{variant}.rules.latent.{key}" if mine else f"rules.latent.{key}"


def published_core(study: StudySpec, settings: FamilySettings) -> int:
    """Core parameters of the published row with the entry's own latents."""
    family = definition_of(settings.family)
    row = family.paper_row(vocab_size_of(study.data), settings)
    return family.parameter_counts(row).core


def latent_values(at_rung: RungSettings) -> dict[str, float]:
    """What rules have made of an entry's latents, by key."""
    plain = at_rung.settings.model_dump(mode="json")
    beta = plain["objective"].get("stage1", {}).get("beta")
    return {key: beta if key == "beta" else plain[key] for key in at_rung.ruled}
