"""A study of one entry at one rung, whose training settings are the entry's own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from cola.errors import SpecError
from cola.spec.training import TrainingSpec
from cola.study import StudySpec
from sweeps.space.samplers import LEARNING_RATE

BATCH = "training.batch_sequences"
OWN = "training."
OWN_LADDER = ("ladder", "budget_factor")


def is_training(key: str) -> bool:
    """Whether a key of the space is a training setting, of the arm's entry where it has one."""
    return key.startswith(OWN)


def stage_of(key: str) -> str | None:
    """The stage whose learning rate the key is; None of any other key."""
    stage = key.removeprefix("training.stages.").removesuffix(".learning_rate")
    return stage if key == f"training.stages.{stage}.learning_rate" else None


def own_settings(entry: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those of training as the entry's own."""
    return {
        f"families.{entry}.{key}" if is_training(key) else key: value
        for key, value in settings.items()
    }


def study_settings(study: StudySpec, training: TrainingSpec, keys: Iterable[str]) -> dict[str, Any]:
    """What a study of one entry, whose runs train so, has of these keys; those that it has."""
    found = {}
    for key in keys:
        own: BaseModel = study
        path = key.split(".")
        if is_training(key):
            own, path = training, path[1:]
            if path[0] == "stages" and len(path) > 2:
                own, path = training.of_stage(path[1]), path[2:]
                path = path if path[0] == "schedule" else ["optimizer", *path]
        value: Any = own.model_dump(mode="json")
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[key] = value
    return found


def alone(values: Mapping[str, Any], entry: str, where: str) -> dict[str, Any]:
    """The study with this entry alone.

    Raises:
        SpecError: naming `where`; it has no such entry.
    """
    entries = values["families"]
    if entry not in entries:
        raise SpecError(
            f"{where}={entry!r}: the base study has no such entry; families has "
            f"{', '.join(entries)}"
        )
    result = {**values, "families": {entry: entries[entry]}}
    if (entries[entry] or {}).get("ladder"):
        result |= {"ladder": [], "design": None}  # nobody is left who would use them
    return result


def at_rung(values: Mapping[str, Any], rung: int, where: str) -> dict[str, Any]:
    """The study at one rung of its ladder, or of its entry's own, counted from 0.

    Raises:
        SpecError: naming `where`; it has fewer, or entries with ladders that differ.
    """
    study = StudySpec.parse(dict(values), origin="the base study")
    ladders = [study.rungs_of(name) for name in study.families]
    if any(rungs != ladders[0] for rungs in ladders):
        raise SpecError(
            f"{where}={rung}: the base study's entries have ladders that differ; give the arm an "
            "entry"
        )
    rungs = ladders[0]
    if rung >= len(rungs):
        last = "rung 0 alone" if len(rungs) == 1 else f"rungs 0 to {len(rungs) - 1}"
        raise SpecError(f"{where}={rung}: the base study has {last}")
    one = rungs[rung].model_dump(mode="json", exclude_none=True)
    entries = {
        name: {key: value for key, value in (settings or {}).items() if key not in OWN_LADDER}
        for name, settings in values["families"].items()
    }
    return {**values, "families": entries, "ladder": [one], "design": None}


def without_rules_of(values: Mapping[str, Any], entry: str, keys: Iterable[str]) -> dict[str, Any]:
    """The study without rules for what these keys of the entry set, which would replace them."""
    result = copy.deepcopy(dict(values))
    own = result["families"][entry].get("rules") or {}
    for key in (key.removeprefix(f"families.{entry}.") for key in keys):
        for rules in (result.get("rules") or {}, own):
            if key == LEARNING_RATE:
                rules.pop("learning_rate", None)
            elif key == BATCH:
                rules.pop("batch_tokens", None)
            elif stage_of(key) is not None:
                (rules.get("stage_learning_rates") or {}).pop(stage_of(key), None)
    return result
