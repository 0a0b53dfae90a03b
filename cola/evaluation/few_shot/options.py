"""Which of its options a generation chooses, by the rule `strict`.

A text is compared with the options exactly first, then in coarser forms; an option is found inside
a longer text as whole words only, and a letter counts only where it cannot be a word. What fits
several options, or none, chooses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cola.errors import SpecError
from cola.evaluation.few_shot.letters import CUE, Letter, is_label, letter_in
from cola.evaluation.few_shot.phrases import one_typing_error_apart, options_within
from cola.evaluation.few_shot.text_forms import (
    FORMS,
    Form,
    plain,
    words_and_symbols,
    words_without_units,
)
from cola.evaluation.items import Item

How = Literal["letter", "exact", "normalised", "contained", "similar"]
_LEAD = re.compile(
    r"^\s*(?:the\s+)?(?:correct\s+|final\s+|best\s+|right\s+)?(?:answer|option|choice)\s*"
    r"(?:is\b|:|=)\s*:?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Match:
    """`choice` is the index of the chosen option, found `by` what; None: nothing is chosen.

    `tie`: the text fits several options equally well.
    """

    choice: int | None
    by: How | None = None
    tie: bool = False


NOTHING = Match(None)
TIE = Match(None, tie=True)


def true_option(item: Item) -> int | None:
    """The index of the true answer among the item's options, by their texts alone.

    None: it is none of them, or fits several.
    """
    return equal_option(item.answer, item.choices or []).choice


def check_truth(item: Item, where: str) -> None:
    """Whether the item's answer is one of its options.

    Raises:
        SpecError: naming the item, its answer and its options.
    """
    if true_option(item) is None:
        raise SpecError(
            f"{where}: item {item.id!r}: answer {item.answer!r} is none of its choices "
            f"({', '.join(map(repr, item.choices or []))}); give the text of the true one"
        )


def equal_option(text: str, choices: Sequence[str]) -> Match:
    """The option that the text is equal to, in the finest form in which it is equal to any.

    The text may leave out an option's unit, not add one.
    """
    forms: list[tuple[Form, Form]] = [(form, form) for form in FORMS]
    forms.append((words_and_symbols, words_without_units))
    for of_text, of_option in forms:
        reduced = of_text(text)
        if not reduced:
            continue
        fitting = {place for place, choice in enumerate(choices) if of_option(choice) == reduced}
        if fitting:
            return _single(fitting, choices, "exact" if of_text is FORMS[0] else "normalised")
    return NOTHING


def strict_choice(text: str, choices: Sequence[str]) -> Match:
    """The option that a generation, cut to its answer, chooses.

    What follows the last "answer is" is tried first, where there is one, then the whole.
    """
    text = plain(text)
    if not is_label(text, len(choices)):
        whole = equal_option(text, choices)
        if whole != NOTHING:
            return whole
    cues = list(CUE.finditer(text))
    if cues:
        found = _choice_in(text[cues[-1].end() :], choices, after_cue=True)
        if found is not None:
            return found
    return _choice_in(text, choices, after_cue=False) or NOTHING


def _choice_in(text: str, choices: Sequence[str], *, after_cue: bool) -> Match | None:
    """The choice in a part of a generation; None: it says nothing, and another part may."""
    # "(A)" is the place even where an option's text is "A".
    equal = NOTHING if is_label(text, len(choices)) else equal_option(text, choices)
    if equal != NOTHING:
        return equal
    letter = letter_in(text, len(choices), after_cue=after_cue)
    if letter is not None:
        return _by_letter(letter, text, choices)
    bare = _LEAD.sub("", text)
    equal = equal_option(bare, choices)
    if equal != NOTHING:
        return equal
    within = options_within(bare, choices)
    if within:
        return _single(within, choices, "contained")
    similar = {i for i, choice in enumerate(choices) if one_typing_error_apart(bare, choice)}
    return _single(similar, choices, "similar") if similar else None


def _by_letter(letter: Letter, text: str, choices: Sequence[str]) -> Match:
    """The letter's option, unless the text beside the letter is another option."""
    if letter.index is None:
        return TIE
    named = {equal_option(letter.rest, choices).choice} - {None}
    if not letter.leads:
        named |= options_within(text, choices)
    if named and choices[letter.index] not in {
        choices[place] for place in named if place is not None
    }:
        return TIE
    return Match(letter.index, "letter")


def _single(found: set[int], choices: Sequence[str], how: How) -> Match:
    """The one option that was found; options that are listed twice are one."""
    if len({choices[place].strip() for place in found}) > 1:
        return TIE
    return Match(min(found), how)
