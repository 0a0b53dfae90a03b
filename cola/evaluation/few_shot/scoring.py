"""The score of a model's generations on a task, and what the bare accuracy hides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from cola.evaluation.clusters import cluster_numbers, clustered_mean, effective_items
from cola.evaluation.few_shot.answers import (
    chosen_option,
    cut,
    first_word,
    leading_word,
    normalise,
    release_choice,
)
from cola.evaluation.few_shot.definitions import DEFINITIONS, Rule, task_named
from cola.evaluation.few_shot.options import NOTHING, equal_option, strict_choice, true_option
from cola.evaluation.few_shot.squad_metrics import squad_exact_match, squad_f1
from cola.evaluation.few_shot.text_forms import numbers
from cola.evaluation.items import Id, Item, matched_generations
from cola.evaluation.statistics import (
    clustered_paired_interval,
    clustered_share_interval,
    paired_share_interval,
    share_interval,
    sign_test,
)

# strict: answers that differ in sign, point, exponent or unit are different, and letters and
# options count as whole words (`cola.evaluation.few_shot.options`). release: the public release's.
Matching = Literal["strict", "release"]
TASKS = tuple(DEFINITIONS)
# What of a text must be equal to the answer's, by the rule.
_REDUCED = {"first_word": first_word, "leading_word": leading_word, "exact_text": normalise}


@dataclass(frozen=True)
class ItemScore:
    """One item: `choice` is the index of the option that was found in the generation, `by` what.

    `valid`: something was answered; where the item has options: one was found. `f1` is the token
    F1, 0 to 1, None where the task has none. An item without a generation is `missing`, and wrong.
    `tie`: the generation fits several options, and chooses none. `chosen` is whether the option
    that was found is the true one, None where answers are free text. `group`: see `Item`.
    """

    id: Id
    correct: bool
    valid: bool
    missing: bool
    choice: int | None
    truth: int | None
    f1: float | None = None
    by: str | None = None
    tie: bool = False
    chosen: bool | None = None
    group: Id | None = None


@dataclass(frozen=True)
class ReleaseScore:
    """What the release's rule gives, in per cent of all items.

    `letters` and `substrings` are the shares of items whose option it finds by a letter, or by a
    part of the text that need not be a whole word; None where no option is chosen.
    """

    accuracy: float
    valid: float
    letters: float | None
    substrings: float | None


@dataclass(frozen=True)
class TaskScore:
    """Scores of a task; rates in per cent, the interval an exact 95% one (Clopper-Pearson).

    Where items share a text, the interval is that of `effective_items`, the independent items that
    say as much; `groups` counts the texts (None: no two items share one).

    `chance` is that of guessing an option, None where answers are free text. `position_bias`
    compares how often each place was chosen and how often it holds the truth (total variation,
    0 to 100, over items with a choice); None where no option is chosen. `f1` is the mean token F1
    of tasks with several accepted answers. `ties` counts generations that fit several options,
    `extra` generations of no item, `found_by` the items by what their option was found.

    Where a generation is right only as the answer's exact text, though the item has options, it is
    also read as a choice: `choice_accuracy` is the share of items whose true option it chooses
    (None for other tasks), and `accuracy_given_valid` is of those that choose an option.
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
    matching: Matching
    ties: int
    extra: int
    found_by: dict[str, int]
    release: ReleaseScore
    choice_accuracy: float | None = None
    groups: int | None = None
    effective_items: float | None = None

    def summary(self) -> dict[str, Any]:
        """Everything but the single items."""
        values = asdict(self)
        del values["per_item"]
        return values


def score_task(
    task: str,
    items: Sequence[Item],
    generations: Mapping[Id, str],
    *,
    matching: Matching = "strict",
    option: str = "--generations",
) -> TaskScore:
    """Score all `items` of a few-shot task; see `score_items`.

    Raises:
        SpecError: for an unknown task, or generations of which none is of these items.
    """
    rule = task_named(task).rule
    return score_items(task, rule, items, generations=generations, matching=matching, option=option)


def score_items(
    task: str,
    rule: Rule,
    items: Sequence[Item],
    *,
    generations: Mapping[Id, str],
    matching: Matching = "strict",
    option: str = "--generations",
) -> TaskScore:
    """Score all `items` by a rule; those without a generation count as wrong.

    Args:
        matching: how a generation is compared with answers and options.
        option: what the caller calls the generations, for messages.

    Raises:
        SpecError: when no generation is of these items.
    """
    texts = matched_generations(items, generations, option=option)
    by_release = [score_item(rule, item, texts.get(item.id), matching="release") for item in items]
    scores = tuple(by_release)
    if matching == "strict":
        scores = tuple(score_item(rule, item, texts.get(item.id)) for item in items)
    scores = tuple(replace(s, group=item.group) for s, item in zip(scores, items, strict=True))
    groups_N = groups_of(scores)
    correct = np.array([score.correct for score in scores])
    valid = np.array([score.valid for score in scores])
    f1 = [score.f1 for score in scores if score.f1 is not None]
    chosen = correct
    if any(score.chosen is not None for score in scores):
        chosen = np.array([bool(score.chosen) for score in scores])
    return TaskScore(
        task=task,
        items=len(scores),
        missing=sum(score.missing for score in scores),
        accuracy=100 * float(correct.mean()),
        accuracy_interval=in_per_cent(
            share_interval(int(correct.sum()), len(correct))
            if groups_N is None
            else clustered_share_interval(correct, groups_N)
        ),
        valid=100 * float(valid.mean()),
        accuracy_given_valid=100 * float(chosen[valid].mean()) if valid.any() else None,
        chance=chance_level(items),
        position_bias=position_bias(scores),
        f1=100 * float(np.mean(f1)) if f1 else None,
        per_item=scores,
        matching=matching,
        ties=sum(score.tie for score in scores),
        extra=len(generations) - len(texts),
        found_by=dict(Counter(score.by for score in scores if score.by is not None)),
        release=_release_score(by_release, rule),
        choice_accuracy=None if chosen is correct else 100 * float(chosen.mean()),
        groups=None if groups_N is None else int(groups_N.max()) + 1,
        effective_items=None if groups_N is None else effective_items(correct, groups_N),
    )


def groups_of(scores: Sequence[ItemScore]) -> np.ndarray | None:
    """A number for the group of each item: (N,); None where no two items are of one."""
    groups = {score.id: score.group for score in scores if score.group is not None}
    groups_N = cluster_numbers([score.id for score in scores], groups)
    return groups_N if len(set(groups_N.tolist())) < len(scores) else None


def _release_score(scores: Sequence[ItemScore], rule: Rule) -> ReleaseScore:
    def share(of: Callable[[ItemScore], bool]) -> float:
        return 100 * sum(map(of, scores)) / len(scores)

    has_options = rule == "multiple_choice"
    return ReleaseScore(
        accuracy=share(lambda score: score.correct),
        valid=share(lambda score: score.valid),
        letters=share(lambda score: score.by == "letter") if has_options else None,
        substrings=share(lambda score: score.by == "substring") if has_options else None,
    )


def score_item(
    rule: Rule, item: Item, generation: str | None, *, matching: Matching = "strict"
) -> ItemScore:
    """Score one item by a rule."""
    if generation is None:
        f1 = 0.0 if rule == "any_answer" else None
        return ItemScore(item.id, False, False, True, None, None, f1)
    text = cut(generation)
    if rule == "multiple_choice":
        return _by_release(item, text) if matching == "release" else _by_strict(item, text)
    if rule == "any_answer":
        answers = item.answers or [item.answer]
        correct = squad_exact_match(text, answers)
        f1 = squad_f1(text, answers)
        return ItemScore(item.id, correct, bool(normalise(text)), False, None, None, f1)
    reduced = _REDUCED[rule]
    given = reduced(text)
    score = ItemScore(
        item.id, bool(given) and given == reduced(item.answer), bool(given), False, None, None
    )
    if score.correct and matching == "strict" and rule != "leading_word":
        score = _free_text(rule, item, text)
    if rule == "exact_text" and item.choices and len(item.choices) > 1:
        equal = matching == "strict" and equal_option(text, item.choices) != NOTHING
        return _as_choice(score, _by_strict(item, text) if equal else _by_release(item, text))
    return score


def _as_choice(exact: ItemScore, read: ItemScore) -> ItemScore:
    """An exact text's score with the option that the text chooses; a right text chooses its own.

    By either rule of matching a text that equals none is read as the release does: an ending of
    many words is named by a text that is much like it.
    """
    return replace(
        exact,
        valid=read.valid or exact.correct,
        choice=read.choice,
        truth=read.truth,
        by=read.by,
        tie=read.tie or exact.tie,
        chosen=read.correct or exact.correct,
    )


def _free_text(rule: Rule, item: Item, text: str) -> ItemScore:
    """A text that is the answer but for punctuation, which may be that of a number or an option."""
    given, wanted = numbers(text), numbers(item.answer)
    if rule == "first_word":
        has_number = any(character.isdigit() for character in first_word(text))
        return ItemScore(
            item.id, not has_number or given[:1] == wanted[:1], True, False, None, None
        )
    options = item.choices if item.choices and item.answer in item.choices else [item.answer]
    nearest = equal_option(text, options)
    other = nearest.choice is not None and options[nearest.choice] != item.answer
    correct = given == wanted and not nearest.tie and not other
    return ItemScore(item.id, correct, True, False, None, None, tie=nearest.tie)


def _by_strict(item: Item, text: str) -> ItemScore:
    choices = item.choices or []
    found, truth = strict_choice(text, choices), true_option(item)
    valid = found.choice is not None
    # Of an option that is listed twice, either place is the truth.
    correct = (
        found.choice is not None
        and truth is not None
        and choices[found.choice].strip() == choices[truth].strip()
    )
    return ItemScore(
        item.id, correct, valid, False, found.choice, truth, by=found.by, tie=found.tie
    )


def _by_release(item: Item, text: str) -> ItemScore:
    choices = item.choices or []
    choice, by = release_choice(text, choices)
    truth = chosen_option(item.answer, choices)
    same_text = bool(normalise(text)) and normalise(text) == normalise(item.answer)
    correct = (choice is not None and choice == truth) or same_text
    valid = choice is not None or same_text
    return ItemScore(item.id, correct, valid, False, choice, truth, by=by)


def in_per_cent(interval: tuple[float, float]) -> tuple[float, float]:
    """An interval of shares, 0 to 1, in per cent."""
    return 100 * interval[0], 100 * interval[1]


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

    `difference` is first minus second in accuracy, in percentage points; its interval Tango's
    95% score interval for shares of the same items. Where items share a text, the interval is of
    the effective items, and the p-value that of Student's t over the `groups` texts.
    """

    difference: float
    difference_interval: tuple[float, float]
    only_first: int
    only_second: int
    p_value: float
    groups: int | None = None


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
    interval = paired_share_interval(only_first, only_second, len(pairs))
    p_value = sign_test(only_first, only_second)
    groups_N = groups_of(first.per_item)
    if groups_N is not None:
        differences_N = np.array([int(a.correct) - int(b.correct) for a, b in pairs])
        interval = clustered_paired_interval(differences_N, groups_N)
        p_value = clustered_mean(differences_N, groups_N).p_value
    return Paired(
        difference=100 * (only_first - only_second) / len(pairs),
        difference_interval=in_per_cent(interval),
        only_first=only_first,
        only_second=only_second,
        p_value=p_value,
        groups=None if groups_N is None else int(groups_N.max()) + 1,
    )
