"""Tasks by name, from the settings of an evaluation and the text that is held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cola.data import PreparedData, TextTokenizer
from cola.errors import SpecError
from cola.evaluation.few_shot.definitions import shots_name, task_named
from cola.evaluation.items import Item
from cola.evaluation.models.context import room_for_prompts
from cola.evaluation.reference_lines import token_frequencies
from cola.evaluation.tasks.cloze import WORD_TOKENS, ClozeTask, cloze_items
from cola.evaluation.tasks.likelihood import Amount, LikelihoodTask
from cola.evaluation.tasks.predictive import PredictiveTask, PromptTexts
from cola.evaluation.tasks.remainders import by_lengths
from cola.evaluation.tasks.speed import SpeedTask
from cola.evaluation.tasks.task import Task
from cola.evaluation.tasks.text_task import TextTask
from cola.evaluation.tasks.token_tasks import ContinuationTask, InfillingTask
from cola.evaluation.tasks.unconditional import NO_JUDGES, Judges, UnconditionalTask
from cola.records import FEW_SHOT_NEW_TOKENS, IN_DOMAIN_TASKS
from cola.spec import GenerationSpec, LikelihoodSpec
from cola.spec.data import GeneratedText
from cola.study import EvaluationSpec
from cola.study.task_lengths import PROMPTED_TASKS


@dataclass(frozen=True)
class HeldOut:
    """Packed sequences that no model was trained on: rows_NL, UTF-8 bytes of each, tokenizer.

    `documents_N` has the number of the document that each is of; None: errors are over sequences.
    `last_T` is the beginning of a sequence that the text does not fill, of `last_bytes` UTF-8
    bytes (None: there is none). `every_sequence`: the likelihood is measured of all of it, not of
    the first `task_items`. `left_out` has a sentence on each part of the text that was not read.
    `prompts` are the sequences of the task `predictive`, `texts_NL` those that unconditional texts
    are compared with (None: these ones). `source`: what a generated text is drawn from.
    """

    rows_NL: np.ndarray
    bytes_N: np.ndarray
    tokenizer: TextTokenizer
    last_T: np.ndarray | None = None
    last_bytes: int = 0
    every_sequence: bool = False
    left_out: tuple[str, ...] = ()
    documents_N: np.ndarray | None = None
    prompts: PromptTexts | None = None
    texts_NL: np.ndarray | None = None
    source: GeneratedText | None = None

    def likelihood_task(self, items: int, settings: LikelihoodSpec, seed: int) -> LikelihoodTask:
        """The likelihood of the first `items` sequences, or of every one."""
        count = len(self.rows_NL) if self.every_sequence else items
        last = self.last_T if self.last_T is not None and len(self.last_T) else None
        whole_text = count > len(self.rows_NL) or self.every_sequence
        return LikelihoodTask(
            self.rows_NL[:count],
            self.bytes_N[:count],
            settings,
            seed=seed,
            last=(last, self.last_bytes) if last is not None and whole_text else None,
            total=None if self.last_T is None else self.total,
            documents_N=self.documents_N,
        )

    @property
    def total(self) -> Amount:
        """How much text there is, measured or not."""
        last = 0 if self.last_T is None else len(self.last_T)
        return Amount(
            sequences=len(self.rows_NL) + (last > 0),
            tokens=self.rows_NL.size + last,
            bytes=int(self.bytes_N.sum()) + self.last_bytes,
        )

    def prompt_texts(self, prompts: int) -> PromptTexts:
        """The sequences that so many prompts are cut from."""
        if self.prompts is not None:
            return self.prompts
        documents = self.documents_N if len(self.rows_NL) else None
        if documents is not None:
            documents = documents[:prompts]
        return PromptTexts(self.first_rows(prompts), documents)

    def first_rows(self, items: int) -> np.ndarray:
        """The first sequences, for tasks that generate; the unfilled one if there is no other."""
        if len(self.rows_NL) or self.last_T is None:
            return self.rows_NL[:items]
        return self.last_T[None]


def held_out(data: PreparedData, items: int, prompts: int = 0, *, texts: int = 0) -> HeldOut:
    """The first `items` sequences of the test split, or all of it where it has fewer, the first
    `prompts` for the task `predictive` with token frequencies, and the first `texts` for the task
    `unconditional` (0: as many as for the others).

    Of data without a test split, those of the validation split.
    """
    split = data.split(data.final)

    def documents_of(ids: np.ndarray) -> np.ndarray | None:
        return split.documents_of(ids) if split.knows_documents else None

    ids = np.arange(min(items, len(split)))
    prompt_texts = None
    if prompts:
        more = np.arange(min(prompts, len(split)))
        prompt_texts = PromptTexts(split.rows(more), documents_of(more), token_frequencies(data))
    return HeldOut(
        split.rows(ids),
        split.bytes_of(ids),
        data.tokenizer,
        documents_N=documents_of(ids),
        prompts=prompt_texts,
        texts_NL=split.rows(np.arange(min(texts, len(split)))) if texts else None,
        source=data.source,
    )


def make_tasks(
    settings: EvaluationSpec,
    held: HeldOut | None,
    items_of: Callable[[str], Sequence[Item]],
    *,
    seed: int,
    context: int | None,
    judges: Judges = NO_JUDGES,
    few_shot_tokens: int = FEW_SHOT_NEW_TOKENS,
) -> list[Task]:
    """The tasks that `settings` names, in that order, for a model of that context.

    `items_of` gives the selected items of a few-shot task; `judges` judge unconditional texts.
    Few-shot tasks make `few_shot_tokens` new tokens, as the release does, whatever
    `settings.generation.max_new_tokens` is.

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
            tasks.append(text_task(name, settings, held, seed=seed, judges=judges))
        else:
            generation = settings.generation.model_copy(update={"max_new_tokens": few_shot_tokens})
            items = items_of(name)
            selected = {
                "how": settings.task_selection,
                "seed": seed,
                "strata": len({item.stratum for item in items} - {None}),
            }
            if settings.shots is not None:
                selected["shots"] = settings.shots
            rule, shown = task_named(name).rule, shots_name(name, settings.shots)
            tasks.append(
                TextTask(shown, rule, items, settings=generation, seed=seed, selected=selected)
            )
    for task in tasks:
        check_room(task, context)
    return tasks


def check_room(task: Task, context: int | None) -> None:
    """Whether a model's context has room for a prompt beside what the task generates.

    Raises:
        SpecError: naming the task and what helps.
    """
    if not isinstance(task.settings, GenerationSpec):
        return
    new = task.settings.max_new_tokens
    remedy = f"give --set generation.max_new_tokens= of less than {context}"
    if task.name == "infilling":
        remedy = f"give --set gap_tokens= of less than {context}"
    elif task.name == "cloze":
        remedy = f"give a --context of more than {new}, or leave the task out"
    elif task.name == "predictive":
        remedy = f"give --set predictive.tokens= of less than {context}"
    asked = f"--tasks {task.name}: generates {new} tokens, which"
    room_for_prompts(context, task.settings, asked=asked, remedy=remedy)


def text_task(
    name: str,
    settings: EvaluationSpec,
    held: HeldOut,
    *,
    seed: int,
    judges: Judges,
) -> Task:
    """A task made from held-out text, by remainders of its prompts' lengths where they are asked
    for.

    Raises:
        SpecError: when its sequences do not give what the task needs.
    """
    skips = settings.prompt_remainders if name in PROMPTED_TASKS else 1
    variants = [
        in_domain_task(name, settings, held, seed=seed, judges=judges, skipped=skipped)
        for skipped in range(skips)
    ]
    return by_lengths(variants)


def in_domain_task(
    name: str,
    settings: EvaluationSpec,
    held: HeldOut,
    *,
    seed: int,
    judges: Judges = NO_JUDGES,
    skipped: int = 0,
) -> Task:
    """A task made from held-out text; `skipped` tokens at its prompts' beginnings are not given.

    Raises:
        SpecError: when its sequences do not give what the task needs.
    """
    generation, prompt = settings.generation, settings.prompt_tokens
    if name == "likelihood":
        return held.likelihood_task(settings.task_items, settings.likelihood, seed)
    if name == "predictive":
        count = settings.predictive_prompts
        texts = held.prompt_texts(count)
        return PredictiveTask(
            texts,
            prompt,
            settings.predictive,
            prompts=count,
            generation=generation,
            seed=seed,
            skipped=skipped,
        )
    # Cloze items are looked for in all sequences, until there are enough.
    rows = held.first_rows(len(held.rows_NL) if name == "cloze" else settings.task_items)
    if name == "cloze":
        # A word at the very end would leave no room to say it in.
        items = cloze_items(rows[:, :-WORD_TOKENS], held.tokenizer, settings.task_items)
        if not items:
            raise SpecError(
                f"--tasks cloze: none of the {len(rows)} held-out sequences repeats a word of four "
                "letters in its second half; give longer or more text, or leave the task out"
            )
        if held.documents_N is not None:
            documents = held.documents_N.tolist()
            items = [i.model_copy(update={"group": documents[int(i.id)]}) for i in items]
        short = generation.model_copy(update={"max_new_tokens": WORD_TOKENS})
        return ClozeTask(items, short, settings.likelihood, seed=seed, skipped=skipped)
    if name == "continuation":
        return ContinuationTask(
            rows,
            prompt,
            generation,
            seed=seed,
            documents_N=held.documents_N,
            source=held.source,
            skipped=skipped,
        )
    if name == "infilling":
        return InfillingTask(
            rows,
            prompt,
            settings.gap_tokens,
            settings=generation,
            seed=seed,
            documents_N=held.documents_N,
        )
    if name == "unconditional":
        if held.texts_NL is not None:
            rows = held.texts_NL
        elif judges.texts is not None and len(held.rows_NL):
            rows = held.rows_NL
        return UnconditionalTask(rows, held.tokenizer, generation, seed=seed, judges=judges)
    return SpeedTask(rows, prompt, generation)
