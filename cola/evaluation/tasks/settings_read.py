"""Which keys of an evaluation's settings each task reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cola.errors import SpecError
from cola.families.registry import definition_of
from cola.records import FEW_SHOT_TASKS, IN_DOMAIN_TASKS
from cola.spec.inference import ANCESTRAL
from cola.study.task_lengths import PROMPTED_TASKS

NEW_TOKENS = "generation.max_new_tokens"
# How an evaluation is made up, and not how one of its tasks is answered.
_OF_ALL = frozenset({"tasks", "task_items", "task_folder"})
# A key here stands for those below it too.
_READ_BY: dict[str, tuple[str, ...]] = {
    NEW_TOKENS: (*FEW_SHOT_TASKS, "continuation", "unconditional", "speed"),
    "generation": (
        *FEW_SHOT_TASKS,
        "cloze",
        "predictive",
        "continuation",
        "infilling",
        "unconditional",
        "speed",
    ),
    "predictive": ("predictive",),
    "likelihood": ("likelihood", "cloze"),
    # Texts from nothing and predictive draws are of the model as it is.
    **{
        f"generation.{key}": (*FEW_SHOT_TASKS, "cloze", "continuation", "infilling", "speed")
        for key in ANCESTRAL
    },
    "task_selection": FEW_SHOT_TASKS,
    "shots": FEW_SHOT_TASKS,
    "prompt_tokens": ("predictive", "continuation", "infilling", "speed"),
    "gap_tokens": ("infilling",),
    "prompt_remainders": PROMPTED_TASKS,
}


def check_read(given: Mapping[str, object], tasks: Sequence[str]) -> None:
    """Whether each of the given keys (by path) is read by one of the tasks.

    Raises:
        SpecError: naming a key that none of them reads, and the tasks that do.
    """
    for path in unread_by_tasks(given, tasks):
        readers = readers_of(path)
        known = f"{_listed(readers)} read it" if readers else "no task reads it"
        raise SpecError(
            f"--set {path}={given[path]}: has no effect on {', '.join(tasks)}; {known}, so leave "
            f"it out{' or name one of these tasks' if readers else ''}"
        )


def unread_by_tasks(given: Iterable[str], tasks: Sequence[str]) -> list[str]:
    """The given keys (by path) that none of the tasks reads."""
    return [path for path in given if not set(readers_of(path)) & set(tasks)]


def readers_of(path: str) -> tuple[str, ...]:
    """The tasks that read a key of the evaluation's settings."""
    if path.partition(".")[0] in _OF_ALL:
        return IN_DOMAIN_TASKS + FEW_SHOT_TASKS
    return _READ_BY.get(path) or _READ_BY.get(path.partition(".")[0], ())


def unread_by_family(given: Iterable[str], family: str, model: Any = None) -> list[str]:
    """The given keys of generation and likelihood that models of a family do not read; `model`:
    the specification of the one that is asked, where it is known."""
    definition = definition_of(family)
    unread = []
    for path in given:
        group, _, key = path.partition(".")
        if not key or group not in ("generation", "likelihood"):
            continue
        if key not in definition.keys_read(group, model):
            unread.append(path)
    return unread


def _listed(tasks: Sequence[str]) -> str:
    few_shot = set(FEW_SHOT_TASKS) <= set(tasks)
    names = [task for task in tasks if not (few_shot and task in FEW_SHOT_TASKS)]
    return ", ".join((["the few-shot tasks"] if few_shot else []) + names)
