"""The settings of an entry beside those that were tuned, and what a tuning record replaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cola.errors import first_of
from cola.families.registry import curve_label
from cola.spec.base import canonical_json
from cola.study.study import StudySpec
from cola.tuning.record import LEARNING_RATE
from cola.tuning.text import TunedCurve, flat

BATCH = "training.batch_sequences"
STAGES = "training.stages."
# Of an entry: what is compared stage by stage, and budgets, which a record has itself.
NO_CONDITIONS = {"training", "rules", "ladder", "budget_factor"}


def conditions_of(study: StudySpec, variant: str, tuned: Iterable[str]) -> dict[str, str]:
    """The entry's settings without the keys that were `tuned`, as texts by dotted key.

    Those of training are by stage, as they hold there.
    """
    settings, tuned = study.families[variant], list(tuned)
    values = flat(settings.model_dump(mode="json", exclude=NO_CONDITIONS))
    training = study.training_of(variant)
    for stage in settings.objective.stage_shares():
        own = training.of_stage(stage).model_dump(mode="json", exclude={"stages"})
        left_out = {_in_stage(key, stage) for key in tuned}
        values |= {
            f"{stage}.{key}": value
            for key, value in flat({"training": own}).items()
            if key not in left_out
        }
    rules = study.rules_of(variant)
    for key, rule in (
        (LEARNING_RATE, rules.learning_rate),
        (BATCH, rules.batch_tokens),
        *((f"{STAGES}{s}.learning_rate", r) for s, r in rules.stage_learning_rates.items()),
    ):
        if rule is not None and key not in tuned:
            values[f"rule for {key}"] = canonical_json(rule.model_dump(mode="json"))
    if rules.latent is not None:
        values |= {
            f"rule for latent.{key}": canonical_json(rule)
            for key, rule in rules.latent.model_dump(mode="json", exclude_none=True).items()
        }
    return values


def _in_stage(key: str, stage: str) -> str:
    """The key as the stage has it, among the settings that hold there."""
    part = key.removeprefix(f"{STAGES}{stage}.")
    if part == key:
        return key
    return f"training.{part}" if part.startswith("schedule") else f"training.optimizer.{part}"


def tuned_curves(study: StudySpec) -> dict[str, TunedCurve]:
    """The study's entries, with their budgets from small to large."""
    return {
        name: TunedCurve(
            curve_label(name, settings.family),
            sorted({rung.amount for rung in study.rungs_of(name)}),
        )
        for name, settings in study.families.items()
    }


def tuning_notes(study: StudySpec) -> Iterator[str]:
    """Where the study is another one than was tuned, and which of its settings are replaced."""
    if study.tuning is None:
        return
    for name, entry in study.tuning.families.items():
        label = curve_label(name, study.families[name].family)
        mine = conditions_of(study, name, entry.searched)
        differing = [
            f"{key} {entry.conditions.get(key, 'null')} (the study has {mine.get(key, 'null')})"
            for key in sorted(mine.keys() | entry.conditions.keys())
            if mine.get(key) != entry.conditions.get(key)
        ]
        if differing:
            yield f"{label}: tuned with other settings: {first_of(differing)}."
        replaced = list(_replaced(study, name))
        if replaced:
            yield f"{label}: what was tuned replaces {first_of(replaced)}."


def _replaced(study: StudySpec, name: str) -> Iterator[str]:
    """The entry's own settings that a tuned one takes the place of, with their values."""
    own, entry = study.families[name], study.tuned(name)
    training = own.training.model_dump(mode="json", exclude_unset=True) if own.training else {}
    given = flat({"training": training})
    for key in entry.searched if entry else ():
        if key in given:
            yield f"families.{name}.{key}={given[key]}"
    for where, rules in ((f"families.{name}.rules", own.rules), ("rules", study.rules)):
        if rules is None or entry is None:
            continue
        if rules.learning_rate is not None and LEARNING_RATE in entry.searched:
            yield f"{where}.learning_rate"
        if rules.batch_tokens is not None and BATCH in entry.searched:
            yield f"{where}.batch_tokens"
        for stage in rules.stage_learning_rates:
            if f"{STAGES}{stage}.learning_rate" in entry.searched:
                yield f"{where}.stage_learning_rates.{stage}"
