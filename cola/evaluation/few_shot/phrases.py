"""Options inside longer texts: as whole words, the longest first, unless they are denied."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import accumulate

from cola.evaluation.few_shot.text_forms import PROSE, numbers, trimmed, words_and_symbols

SIMILAR_ENOUGH = 0.9  # difflib ratio of a text and an option that it misspells
NEARBY = 300  # chosen: characters around a place in which its clause is looked for
SHORTEST_MISSPELT = 4  # letters; shorter words that differ in one are other words

_CLAUSE_END = re.compile(r"[.;:!?,—](?=\s|$)|\b(?:but|rather|instead)\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|cannot|except|without|unlike|instead of|rather than)\b|n't\b",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"^[\"')\]]*\s+(?:(?:is|are|was|were|would be|does|do|did|can)\s*)?"
    r"(?:not\b|n't\b|cannot\b|never\b|wrong\b|incorrect\b|false\b)",
    re.IGNORECASE,
)
_UNITS_BY_WORD = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
_TENS = "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty"
_MAGNITUDES = "ninety hundred thousand million billion trillion dozen hundredths tenths point"
NUMBER_WORDS = frozenset(f"zero {_UNITS_BY_WORD} {_TENS} {_MAGNITUDES}".split())
_NEGATIONS = frozenset({"no", "not", "never", "neither", "nor", "none"})
_SIGNS = frozenset({"minus", "negative"})
_OPERATORS = frozenset("-+*/^×÷·±~<>≤≥")
_EDGE = PROSE.replace("'", "") + "'"


def options_within(text: str, choices: Sequence[str]) -> set[int]:
    """Indices of the options that the text has as whole words and does not deny.

    An option within a longer one that is found does not count. Of options that differ in case
    alone the one counts that stands there in its own case.
    """
    text = trimmed(text)
    options = [trimmed(choice) for choice in choices]
    folded, lower = [option.casefold() for option in options], text.casefold()
    taken: list[tuple[int, int]] = []
    found: set[int] = set()
    for option in sorted(set(folded) - {""}, key=len, reverse=True):
        spans = _outside(_spans(lower, option, folded), taken)
        taken += spans
        for start, end in spans:
            if not is_denied(lower, start, end):
                there = [place for place, other in enumerate(folded) if other == option]
                own = [place for place in there if options[place] == text[start:end]]
                found.update(own or there)
    return found


def is_denied(text: str, start: int, end: int) -> bool:
    """Whether what stands there is negated: before it in its clause, or right behind it."""
    before = text[max(0, start - NEARBY) : start]
    breaks = list(_CLAUSE_END.finditer(before))
    clause = before[breaks[-1].start() if breaks else 0 :]
    clause = re.sub(r"^\W*(?:but|rather(?!\s+than)|instead(?!\s+of))\b", "", clause, flags=re.I)
    return bool(_NEGATION.search(clause) or _DENIED_BEHIND.match(text[end : end + NEARBY]))


def one_typing_error_apart(text: str, option: str) -> bool:
    """Whether a text is an option but for one letter left out, added or changed in some word.

    Numbers, symbols, short words and first letters must agree: what differs in these is another
    answer, not a slip.
    """
    given, wanted = words_and_symbols(text), words_and_symbols(option)
    if len(given) != len(wanted) or numbers(text) != numbers(option):
        return False
    different = [(a, b) for a, b in zip(given, wanted, strict=True) if a != b]
    if not different or not all(_is_slip(a, b) for a, b in different):
        return False
    return SequenceMatcher(None, " ".join(given), " ".join(wanted)).ratio() >= SIMILAR_ENOUGH


def _is_slip(given: str, wanted: str) -> bool:
    if min(len(given), len(wanted)) < SHORTEST_MISSPELT or given[0] != wanted[0]:
        return False
    if not (given.isalpha() and wanted.isalpha()):
        return False
    same = 0
    for a, b in zip(given, wanted, strict=False):
        if a != b:
            break
        same += 1
    left, right = given[same:], wanted[same:]
    return left[1:] == right[1:] or left[1:] == right or left == right[1:]


def _spans(text: str, option: str, options: Sequence[str]) -> list[tuple[int, int]]:
    """Where the option stands in the text as whole words."""
    # "5" before a unit is no "5" where another option is "5 km".
    has_unit = option[-1:].isdigit() and any(o.startswith(f"{option} ") for o in options)
    spans, start = [], text.find(option)
    while start >= 0:
        end = start + len(option)
        if _is_whole(text, start, end) and not (has_unit and text[end : end + 1] == " "):
            spans.append((start, end))
        start = text.find(option, start + 1)
    return spans


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether only punctuation of prose joins the span to the spaces around it, and it is no part
    of a longer number or formula."""
    before = text[max(0, start - NEARBY) : start].split(" ")
    after = text[end : end + NEARBY].split(" ")
    if before[-1].strip(_EDGE) or after[0].strip(_EDGE):
        return False
    if before[-1][-1:] in (".", ",", ":") and text[start].isdigit():
        return False
    option = text[start:end].split(" ")
    apart_before = bool(before[-1]) or len(before) < 2
    apart_after = bool(after[0]) or len(after) < 2
    if text[start:end] in _NEGATIONS:  # "not" is a word of most sentences
        return (apart_before or before[-2][-1:] in set(PROSE)) and apart_after
    if not apart_before and _joins(before[-2], option[0], ahead=False):
        return False
    if apart_after:
        return True
    following = after[2] if len(after) > 2 else ""
    return not _joins(after[1], option[-1], ahead=True, following=following)


def _joins(neighbour: str, word: str, *, ahead: bool, following: str = "") -> bool:
    """Whether a word beside an option's edge makes a number or a formula of both."""
    bare = neighbour.strip(_EDGE).casefold()
    is_number = word.casefold() in NUMBER_WORDS or word[:1].isdigit() or word[-1:].isdigit()
    if not is_number:
        return bool(bare) and bare in _OPERATORS and not ahead and len(word) == 1
    if bare in _OPERATORS:
        return not ahead or following[:1].isdigit() or len(following.strip(_EDGE)) == 1
    if not ahead and neighbour[-1:] in set(PROSE):
        return False
    return bare in NUMBER_WORDS or bare[:1].isdigit() or (not ahead and bare in _SIGNS)


def _outside(
    spans: Sequence[tuple[int, int]], taken: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The spans that lie within none of those taken."""
    ordered = sorted(taken)
    starts = [start for start, _ in ordered]
    furthest = list(accumulate((end for _, end in ordered), max))
    found = []
    for start, end in spans:
        before = bisect_right(starts, start)
        if not before or furthest[before - 1] < end:
            found.append((start, end))
    return found
