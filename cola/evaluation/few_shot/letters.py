"""The letter of an option in a generation: "B", "(b)", "B. because", "the answer is B".

"A" and "I" are words too, and so is every lower-case letter in running text: they count only where
no word can stand. Two letters, a letter that is negated or one beyond the options choose nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cola.evaluation.few_shot.phrases import is_denied

SHORT_TEXT = 40  # characters; in longer texts a bracketed letter is part of a sentence

# "An answer to a call" is no cue: it needs a verb or a sign, or a capital right behind it.
CUE = re.compile(
    r"\b(?:final\s+)?answer\b(?:(?:\s*(?:\b(?:is|was|must be|should be|would be)\b|:|=))+\s*"
    r"|\s+(?=[(\[]?(?-i:[A-Z])[)\]]?(?:[\s.,;:]|$)))",
    re.IGNORECASE,
)
_NOT_FIRST = re.compile(r"^not\s+[(\[]?[A-Za-z][)\]]?\s*,?\s*(?:but|it is)\s+(?:rather\s+)?")
_FILLER = re.compile(
    r"^[\s\"':*]*(?:(?:definitely|clearly|probably|either|the|letter|option|choice)\s+)*",
    re.IGNORECASE,
)
_BRACKETED = r"(?<!\w)[(\[]\s*([A-Za-z])\s*[)\]](?!\w)"
_LONE = re.compile(r"[\s\"']*(?:[(\[]\s*)?([A-Za-z])\s*[)\]]?\s*[.,;:!?\"']*\s*")
_FIRST_BRACKETED = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]](?!\w)")
_MARKED = re.compile(r"([A-Za-z])(?=[\"']?(?:\s*(?:—|-\s)|([.,:;])\s))")
_CAPITAL = re.compile(r"([A-Z])(?=[\"']?\s)")
_REASON = re.compile(r"\s+(?:because|since|due|which|given)\b")
_IS_RIGHT = re.compile(r"\s+(?:is|was)\s+(?:the\s+)?(?:correct|right|best|true|answer)\b", re.I)
_NAMED = re.compile(
    r"\b(?:option|choice|letter|choose|pick|select)\b\s*(?:is\b|=|:)?\s*(?:[(\[]\s*)?([A-Za-z])(?![\w'])",
    re.IGNORECASE,
)
_MORE = re.compile(r"[)\]]?\s*(?:,|/|&|\bor\b|\band\b)\s*(?:or\s+|and\s+)?[(\[]?([A-Z])(?![\w'])")
_WORD_LETTERS = frozenset("AaI")  # English words; "i" is none, but a numeral


@dataclass(frozen=True)
class Letter:
    """`index` of the option that a letter names; None: letters are there, but choose none.

    `rest` is what follows the letter; `leads`: it stands before the answer's text, if there is any.
    """

    index: int | None
    rest: str = ""
    leads: bool = True


def is_label(text: str, options: int) -> bool:
    """Whether a text is the bracketed letter of an option and nothing else."""
    lone = _LONE.fullmatch(text)
    return lone is not None and text.strip(" \"'")[:1] in "([" and _place(lone.group(1)) < options


def letter_in(text: str, options: int, *, after_cue: bool) -> Letter | None:
    """What a part of a generation says by letters; None where it says nothing by them.

    `after_cue`: the part follows "the answer is", where a letter alone needs no bracket.
    """
    lone = _LONE.fullmatch(text)
    if lone:
        return _letter(lone.group(1), options)
    if after_cue and (denied := _NOT_FIRST.match(text)):
        return letter_in(text[denied.end() :], options, after_cue=True)
    start = _FILLER.match(text)
    at = start.end() if start else 0
    found = _leading(text, at, after_cue=after_cue or _says_option(text[:at]))
    mentions = [found] if found else []
    if not mentions:
        mentions = [match for match in _NAMED.finditer(text) if _is_named(text, match)]
    if len(text) <= SHORT_TEXT:
        mentions += re.finditer(_BRACKETED, text)
    named = [m for m in mentions if 0 <= _place(m.group(1)) < options]
    if not named:
        return None
    kept = [match for match in named if not is_denied(text, match.start(), match.end())]
    places = {_place(match.group(1)) for match in kept}
    last = max(named, key=lambda match: match.end())
    more = _MORE.match(text, last.end())
    if more and _place(more.group(1)) < options:
        places.add(_place(more.group(1)))
    if len(places) != 1:
        return Letter(None)
    rest = text[last.end() :].strip(" .,:;)]-—")
    return Letter(places.pop(), rest, leads=found is not None)


def _leading(text: str, at: int, *, after_cue: bool) -> re.Match[str] | None:
    """The letter that the text begins with, where it is the mark of an option."""
    bracketed = _FIRST_BRACKETED.match(text, at)
    if bracketed:
        return bracketed
    marked = _MARKED.match(text, at)
    if marked:
        may_be_word = marked.group(1).islower() and marked.group(2) not in (".", ":")
        return None if may_be_word and not after_cue else marked
    alone = re.compile(r"([A-Za-z])[.,;:!?]*$").match(text, at)
    if alone and (after_cue or alone.group(1).isupper()):
        return alone
    capital = _CAPITAL.match(text, at)
    if not capital:
        return None
    says_why = _REASON.match(text, capital.end()) or _IS_RIGHT.match(text, capital.end())
    if says_why or _MORE.match(text, capital.end()):
        return capital
    return capital if after_cue and capital.group(1) not in _WORD_LETTERS else None


def _is_named(text: str, match: re.Match[str]) -> bool:
    """Whether "option b" and the like names a letter: "a" and "I" may begin what follows."""
    letter = match.group(1)
    if letter not in _WORD_LETTERS:
        return (
            letter.isupper()
            or re.match(r"\s*(?:option|choice|letter)", match.group(), re.I) is not None
        )
    behind = text[match.end() :]
    ends = re.match(r"\s*(?:[.,;:)\]!?—]|$)", behind)
    return bool(ends or _REASON.match(behind) or re.match(r"\s+(?:is|was)\b", behind))


def _says_option(filler: str) -> bool:
    return re.search(r"(?:letter|option|choice)\s+$", filler, re.IGNORECASE) is not None


def _letter(letter: str, options: int) -> Letter | None:
    return Letter(_place(letter)) if _place(letter) < options else None


def _place(letter: str) -> int:
    return ord(letter.upper()) - ord("A")
