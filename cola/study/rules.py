"""Rules of a study's entries: an entry's own over the study's, key by key, and what they hide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cola.families.interface.specs import FamilySettings
from cola.spec.design import RulesSpec

NESTED = ("latent", "stage_learning_rates")  # rules that are several


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


def changed_rules(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The rules of a study's values that are not what they were: their keys below `rules`."""
    old, new = before.get("rules"), after.get("rules")
    old = old if isinstance(old, Mapping) else {}
    for key, value in new.items() if isinstance(new, Mapping) else ():
        if key in NESTED and isinstance(value, Mapping):
            former = old.get(key)
            former = former if isinstance(former, Mapping) else {}
            yield from ((key, name) for name, item in value.items() if item != former.get(name))
        elif value != old.get(key):
            yield (key,)


def hides(own: RulesSpec | None, key: tuple[str, ...]) -> bool:
    """Whether an entry's own rules come before the study's rule of this key."""
    if own is None or key[0] not in own.model_fields_set:
        return False
    if key[0] != "latent" or own.latent is None or len(key) == 1:
        return True  # the rates of stages are replaced as a whole
    return key[1] in own.latent.model_fields_set


def hides_tuned(tuned: RulesSpec | None, key: tuple[str, ...]) -> bool:
    """Whether rules that a tuning sweep found come before the study's rule of this key."""
    if tuned is None or key[0] not in tuned.model_fields_set:
        return False
    return key[0] != "stage_learning_rates" or len(key) == 1 or key[1] in tuned.stage_learning_rates


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
