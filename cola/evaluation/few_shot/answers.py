"""From a raw continuation to an answer: cut, normalise, find the chosen option.

The rules are those of the public release's few-shot protocol, so that its outputs score the same
by the rule `release`. Cutting is the same by every rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

ReleaseHow = Literal["letter", "text", "substring", "similarity"]

SIMILAR_ENOUGH = 0.9  # difflib ratio of a text and the option that it is taken for
SHORT_TEXT = 40  # characters; in longer texts a bracketed letter is part of a sentence

_LEADING = re.compile(r"\s*([^\W\d_]+)")
_NOT_WORD = re.compile(r"[^\w\s]")
_SPACE = re.compile(r"\s+")
_CUE = re.compile(r"\b(?:final\s+)?answer\b\s*(?:is\b|:|=)?\s*", re.IGNORECASE)
_LONE_LETTER = re.compile(r"[\(\[]?\s*([A-Za-z])\s*[\)\]]?\s*\.?")
_NAMED_LETTER = re.compile(
    r"\b(?:final\s+answer|answer|option|choice)\s*(?:is\b|=|:)\s*[\(\[]?([A-Za-z])\b[\)\]]?",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"[\(\[]\s*([A-Za-z])\s*[\)\]]")
_LEAD = re.compile(
    r"^\s*(?:the\s+)?(?:correct\s+|final\s+|best\s+)?(?:answer|option|choice)\s*(?:is\b|:|=)\s*",
    re.IGNORECASE,
)


def cut(generation: str) -> str:
    """The generation up to the first newline that has a word character before it."""
    word = re.search(r"\w", generation)
    end = generation.find("\n", word.end()) if word else -1
    return generation if end < 0 else generation[:end]


def normalise(text: str) -> str:
    """Lower case, only word characters and single spaces."""
    return _SPACE.sub(" ", _NOT_WORD.sub("", text.lower().strip())).strip()


def first_word(text: str) -> str:
    """First word of the normalised text; empty where there is none."""
    words = normalise(text).split(" ", 1)
    return words[0]


def leading_word(text: str) -> str:
    """The letters that the text begins with behind white space, in lower case; empty where it
    begins with anything else."""
    found = _LEADING.match(text)
    return found.group(1).lower() if found else ""


def chosen_option(text: str, choices: Sequence[str]) -> int | None:
    """Index of the option that `text` names by the release's rule; None where it names none."""
    return release_choice(text, choices)[0]


def release_choice(text: str, choices: Sequence[str]) -> tuple[int | None, ReleaseHow | None]:
    """Index of the option that `text` names by the release's rule, and by what it is found.

    What follows the last "answer" cue is tried first, where there is one, then the whole.
    """
    cues = list(_CUE.finditer(text))
    if cues:
        found = _chosen_in(text[cues[-1].end() :], choices)
        if found[0] is not None:
            return found
    return _chosen_in(text, choices)


def _chosen_in(text: str, choices: Sequence[str]) -> tuple[int | None, ReleaseHow | None]:
    by_letter = _by_letter(text.strip(), len(choices))
    if by_letter is not None:
        return by_letter, "letter"
    options = [normalise(choice) for choice in choices]
    whole, bare = normalise(text), normalise(_LEAD.sub("", text))
    for candidate in (whole, bare):
        if candidate and candidate in options:
            return options.index(candidate), "text"
    contained = [index for index, option in enumerate(options) if option and option in bare]
    if len(contained) == 1:
        return contained[0], "substring"
    ratios = [SequenceMatcher(None, bare, option).ratio() for option in options]
    best = max(range(len(options)), key=ratios.__getitem__)
    return (best, "similarity") if ratios[best] >= SIMILAR_ENOUGH else (None, None)


def _by_letter(text: str, options: int) -> int | None:
    lone = _LONE_LETTER.fullmatch(text)
    letters = [lone.group(1)] if lone else []
    letters += [match.group(1) for match in _NAMED_LETTER.finditer(text)][-1:]
    if len(text) <= SHORT_TEXT:
        letters += [match.group(1) for match in _BRACKETED.finditer(text)][-1:]
    for letter in letters:
        index = ord(letter.upper()) - ord("A")
        if 0 <= index < options:
            return index
    return None
