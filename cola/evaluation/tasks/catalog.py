"""Tasks by name, from the settings of an evaluation and the text that is held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cola.data import PreparedData, TextTokenizer
from cola.errors import SpecError
from cola.evaluation.few_shot.definitions import task_named
from cola.evaluation.items import Item
from cola.evaluation.models.judge import Reference
from cola.evaluation.tasks.cloze import ClozeTask, cloze_items
from cola.evaluation.tasks.likelihood import LikelihoodTask
from cola.evaluation.tasks.speed import SpeedTask
from cola.evaluation.tasks.task import Task
from cola.evaluation.tasks.text_task import TextTask
from cola.evaluation.tasks.token_tasks import ContinuationTask, InfillingTask
from cola.evaluation.tasks.unconditional import UnconditionalTask
from cola.records import FEW_SHOT_NEW_TOKENS, IN_DOMAIN_TASKS
from cola.spec import GenerationSpec
from cola.study import EvaluationSpec

CLOZE_TOKENS = 8  # a word has fewer, in any tokenizer of a few thousand entries


@dataclass(frozen=True)
class HeldOut:
    """Packed sequences that no model was trained on: rows_NL, UTF-8 bytes of each, tokenizer."""

    rows_NL: np.ndarray
    bytes_N: np.ndarray
    tokenizer: TextTokenizer


def held_out(data: PreparedData, items: int) -> HeldOut:
    """The first `items` sequences of the validation split, or all of it where it has fewer."""
    ids = np.arange(min(items, len(data.validation)))
    rows = data.validation.rows(ids)
    return HeldOut(rows, data.validation.bytes_of(ids), data.tokenizer)


def make_tasks(
    settings: EvaluationSpec,
    held: HeldOut | None,
    items_of: Callable[[str, int], Sequence[Item]],
    *,
    seed: int,
    context: int | None,
    reference: Callable[[], Reference] | None = None,
    few_shot_tokens: int = FEW_SHOT_NEW_TOKENS,
) -> list[Task]:
    """The tasks that `settings` names, in that order, for a model of that context.

    `items_of` gives the first items of a few-shot task, up to a number; `reference` judges
    unconditional texts. Few-shot tasks make `few_shot_tokens` new tokens, as the release does,
    whatever `settings.generation.max_new_tokens` says.

    Raises:
        SpecError: when a task needs held-out text and there is none, holds no item, or generates
            more than the context has room for.
    """
    tasks: list[Task] = []
    for name in settings.tasks:
        if name in IN_DOMAIN_TASKS:
            if held is None:
                raise SpecError(
                    f"--tasks {name}: needs held-out text; name a run, or give --held-out FILE"
                )
            tasks.append(in_domain_task(name, settings, held, seed=seed, reference=reference))
        else:
            generation = settings.generation.model_copy(update={"max_new_tokens": few_shot_tokens})
            items = items_of(name, settings.task_items)
            tasks.append(
                TextTask(name, task_named(name).rule, items, settings=generation, seed=seed)
            )
    for task in tasks:
        check_room(task, context)
    return tasks


def check_room(task: Task, context: int | None) -> None:
    """Whether a model's context has room for a prompt beside what the task generates.

    Raises:
        SpecError: naming the task and what helps.
    """
    if not isinstance(task.settings, GenerationSpec) or context is None:
        return
    new = task.settings.max_new_tokens
    if new >= context:
        helps = f"give --set generation.max_new_tokens= of less than {context}"
        if task.name == "infilling":
            helps = f"give --set gap_tokens= of less than {context}"
        elif task.name == "cloze":
            helps = f"give a --context of more than {new}, or leave the task out"
        raise SpecError(
            f"--tasks {task.name}: generates {new} tokens, which leaves no room for a prompt in "
            f"the model's context of {context} tokens; {helps}"
        )


def in_domain_task(
    name: str,
    settings: EvaluationSpec,
    held: HeldOut,
    *,
    seed: int,
    reference: Callable[[], Reference] | None,
) -> Task:
    """A task made from held-out text.

    Raises:
        SpecError: when its sequences do not give what the task needs.
    """
    rows, generation, prompt = held.rows_NL, settings.generation, settings.prompt_tokens
    if name == "likelihood":
        return LikelihoodTask(rows, held.bytes_N, settings.likelihood, seed=seed)
    if name == "cloze":
        # A word at the very end would leave no room to say it in.
        items = cloze_items(rows[:, :-CLOZE_TOKENS], held.tokenizer, settings.task_items)
        if not items:
            raise SpecError(
                f"--tasks cloze: none of the {len(rows)} held-out sequences repeats a word of four "
                "letters in its second half; give longer or more text, or leave the task out"
            )
        short = generation.model_copy(update={"max_new_tokens": CLOZE_TOKENS})
        return ClozeTask(items, short, settings.likelihood, seed=seed)
    if name == "continuation":
        return ContinuationTask(rows, prompt, generation, seed=seed)
    if name == "infilling":
        return InfillingTask(rows, prompt, settings.gap_tokens, settings=generation, seed=seed)
    if name == "unconditional":
        return UnconditionalTask(rows, held.tokenizer, generation, seed=seed, reference=reference)
    return SpeedTask(rows, prompt, generation)
