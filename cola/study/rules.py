"""Rules of a study's entries: an entry's own over the study's, key by key."""

from __future__ import annotations

from collections.abc import Mapping

from cola.families.interface.specs import FamilySettings
from cola.spec.design import RulesSpec


def overlaid_rules(shared: RulesSpec, own: RulesSpec | None) -> RulesSpec:
    """The shared rules with those that an entry gives, of latents too key by key."""
    if own is None:
        return shared
    changes = {name: getattr(own, name) for name in own.model_fields_set}
    if shared.latent is not None and own.latent is not None:
        latent = {name: getattr(own.latent, name) for name in own.latent.model_fields_set}
        changes["latent"] = shared.latent.model_copy(update=latent)
    return shared.model_copy(update=changes)


def with_tuned_rules(rules: RulesSpec, tuned: RulesSpec | None) -> RulesSpec:
    """The rules with those that a tuning sweep found, of stages' rates stage by stage."""
    if tuned is None:
        return rules
    changes = {name: getattr(tuned, name) for name in tuned.model_fields_set}
    stages = rules.stage_learning_rates | tuned.stage_learning_rates
    return rules.model_copy(update=changes | {"stage_learning_rates": stages})


def check_latent_rules(families: Mapping[str, FamilySettings]) -> None:
    """Raise a ValueError where an entry has rules for latents that its family does not have."""
    for variant, settings in families.items():
        latent = settings.rules.latent if settings.rules is not None else None
        for key in latent.model_fields_set if latent is not None else ():
            if key not in settings.latent_keys:
                raise ValueError(
                    f"families.{variant}.rules.latent.{key}: {settings.family} has no such setting "
                    "of latents; remove the rule"
                )
