"""The score of a model's generations on a task, and what the bare accuracy hides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from cola.errors import SpecError
from cola.evaluation.few_shot.answers import chosen_option, cut, first_word, normalise
from cola.evaluation.few_shot.definitions import DEFINITIONS, Rule, task_named
from cola.evaluation.few_shot.squad_metrics import squad_exact_match, squad_f1
from cola.evaluation.items import Id, Item
from cola.evaluation.statistics import RESAMPLES, percentile_interval

TASKS = tuple(DEFINITIONS)
MULTIPLE_CHOICE = frozenset(name for name, task in DEFINITIONS.items() if task.needs_choices)


@dataclass(frozen=True)
class ItemScore:
    """One item: `choice` is the index of the option that was found in the generation.

    `valid`: something was answered; for multiple choice: an option was found. `f1` is the token
    F1, 0 to 1, None where the task has none. An item without a generation is `missing`, and wrong.
    """

    id: Id
    correct: bool
    valid: bool
    missing: bool
    choice: int | None
    truth: int | None
    f1: float | None = None


@dataclass(frozen=True)
class TaskScore:
    """Scores of a task; rates in per cent, the interval a 95% bootstrap over items (seed 0).

    `chance` is that of guessing an option, None where answers are free text. `position_bias`
    compares how often each place was chosen and how often it holds the truth (total variation,
    0 to 100, over items with a choice); None where no option is chosen. `f1` is the mean token F1
    of tasks with several accepted answers.
    """

    task: str
    items: int
    missing: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    valid: float
    accuracy_given_valid: float | None
    chance: float | None
    position_bias: float | None
    f1: float | None
    per_item: tuple[ItemScore, ...]

    def summary(self) -> dict[str, Any]:
        """Everything but the single items."""
        values = asdict(self)
        del values["per_item"]
        return values


def score_task(task: str, items: Sequence[Item], generations: Mapping[Id, str]) -> TaskScore:
    """Score all `items` of a few-shot task; see `score_items`.

    Raises:
        SpecError: for an unknown task, or generations of which none is of these items.
    """
    return score_items(task, task_named(task).rule, items, generations=generations)


def score_items(
    task: str, rule: Rule, items: Sequence[Item], *, generations: Mapping[Id, str]
) -> TaskScore:
    """Score all `items` by a rule; those without a generation count as wrong.

    Raises:
        SpecError: when no generation is of these items.
    """
    if not any(item.id in generations for item in items):
        raise SpecError("--generations: no id is one of the items'; is it another task's file?")
    scores = tuple(score_item(rule, item, generations.get(item.id)) for item in items)
    correct = np.array([score.correct for score in scores])
    valid = np.array([score.valid for score in scores])
    f1 = [score.f1 for score in scores if score.f1 is not None]
    return TaskScore(
        task=task,
        items=len(scores),
        missing=sum(score.missing for score in scores),
        accuracy=100 * float(correct.mean()),
        accuracy_interval=bootstrap_interval(correct),
        valid=100 * float(valid.mean()),
        accuracy_given_valid=100 * float(correct[valid].mean()) if valid.any() else None,
        chance=chance_level(items),
        position_bias=position_bias(scores),
        f1=100 * float(np.mean(f1)) if f1 else None,
        per_item=scores,
    )


def score_item(rule: Rule, item: Item, generation: str | None) -> ItemScore:
    """Score one item by a rule."""
    if generation is None:
        f1 = 0.0 if rule == "any_answer" else None
        return ItemScore(item.id, False, False, True, None, None, f1)
    text = cut(generation)
    if rule == "multiple_choice":
        return _score_choice(item, text)
    if rule == "any_answer":
        answers = item.answers or [item.answer]
        correct = squad_exact_match(text, answers)
        f1 = squad_f1(text, answers)
        return ItemScore(item.id, correct, bool(normalise(text)), False, None, None, f1)
    reduced = first_word if rule == "first_word" else normalise
    given = reduced(text)
    correct = bool(given) and given == reduced(item.answer)
    return ItemScore(item.id, correct, bool(given), False, None, None)


def _score_choice(item: Item, text: str) -> ItemScore:
    choices = item.choices or []
    choice, truth = chosen_option(text, choices), chosen_option(item.answer, choices)
    same_text = bool(normalise(text)) and normalise(text) == normalise(item.answer)
    correct = (choice is not None and choice == truth) or same_text
    return ItemScore(item.id, correct, choice is not None or same_text, False, choice, truth)


def bootstrap_interval(correct: np.ndarray) -> tuple[float, float]:
    """Percentile interval of the mean in per cent, items drawn with replacement.

    Of right and wrong answers, a resample is a binomial count.
    """
    draws = np.random.default_rng(0).binomial(len(correct), correct.mean(), RESAMPLES)
    return percentile_interval(100 * draws / len(correct))


def chance_level(items: Sequence[Item]) -> float | None:
    """Expected per cent of a guess among each item's options."""
    if not all(item.choices for item in items):
        return None
    return 100 * float(np.mean([1 / len(item.choices or []) for item in items]))


def position_bias(scores: Sequence[ItemScore]) -> float | None:
    """Total variation distance of the chosen places from the true ones, 0 to 100."""
    pairs = [(s.choice, s.truth) for s in scores if s.choice is not None and s.truth is not None]
    if not pairs:
        return None
    chosen, true = Counter(c for c, _ in pairs), Counter(t for _, t in pairs)
    places = chosen.keys() | true.keys()
    return 50 * sum(abs(chosen[place] - true[place]) for place in places) / len(pairs)


@dataclass(frozen=True)
class Paired:
    """Two models on the same items: who alone was right, and McNemar's exact p-value (two-sided).

    `difference` is first minus second in accuracy, in percentage points; its interval a 95%
    bootstrap over items, both models' answers to an item drawn together (seed 0).
    """

    difference: float
    difference_interval: tuple[float, float]
    only_first: int
    only_second: int
    p_value: float


def compare_paired(first: TaskScore, second: TaskScore) -> Paired:
    """McNemar's exact test on items that one of the two alone got right, and the difference.

    Raises:
        ValueError: when the items differ.
    """
    if [s.id for s in first.per_item] != [s.id for s in second.per_item]:
        raise ValueError("the two scores are of different items")
    pairs = list(zip(first.per_item, second.per_item, strict=True))
    only_first = sum(a.correct and not b.correct for a, b in pairs)
    only_second = sum(b.correct and not a.correct for a, b in pairs)
    discordant = only_first + only_second
    return Paired(
        difference=100 * (only_first - only_second) / len(pairs),
        difference_interval=paired_interval(only_first, only_second, len(pairs)),
        only_first=only_first,
        only_second=only_second,
        p_value=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    )


def paired_interval(only_first: int, only_second: int, items: int) -> tuple[float, float]:
    """Percentile interval of the difference in accuracy in points, items drawn with replacement.

    An item adds 1, -1 or 0 to the difference, so a resample is a multinomial count.
    """
    shares = np.array([only_first, only_second, items - only_first - only_second]) / items
    draws = np.random.default_rng(0).multinomial(items, shares, RESAMPLES)
    return percentile_interval(100 * (draws[:, 0] - draws[:, 1]) / items)
