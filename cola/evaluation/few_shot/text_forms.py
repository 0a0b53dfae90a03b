"""Texts of answers compared without losing what tells them apart: signs, points, exponents, units.

Each form drops more of a text than the one before. Two texts that are one in a form but not in an
earlier one may be different answers, so a form decides only where it fits a single option.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

Form = Callable[[str], object]

# Punctuation of prose, which answers differ by without differing in meaning.
PROSE = ".,;:!?'\"()[]{}…*_`"
UNITS = "%‰°$€£¥"

_LOOK_ALIKES = str.maketrans(
    {
        **dict.fromkeys("“”„«»″", '"'),
        **dict.fromkeys("‘’‚′", "'"),
        "\u2212": "-",  # the minus sign
        "\u2011": "-",  # the hyphen that does not break
        "\u00a0": " ",
        # Punctuation of other scripts.
        **dict.fromkeys("。।۔", "."),
        **dict.fromkeys("、،", ","),
        **dict.fromkeys("「」『』《》", '"'),
        "؛": ";",
        "؟": "?",
        # The fullwidth forms of ASCII, as East Asian texts have them.
        **{chr(0xFF01 + place): chr(0x21 + place) for place in range(0x5E)},
    }
)
_EMPHASIS = re.compile(r"(?<!\w)(\*\*|__|\*|`)(?=\S)(.{1,200}?)(?<=\S)\1(?!\w)")
_DASH = re.compile(r"—|(?<=\s)–(?=\s)|(?<=[^\W\d])–(?=[^\W\d])")
_UNARY_DASH = re.compile(r"(?<![\w)])–(?=\d)")
# A dash that begins a number or follows a relation is a minus sign, spaced or not.
_SPACED_MINUS = re.compile(r"(^\s*|[=<>≤≥]\s*)–(?=\s*[\d.])")
_LATEX = re.compile(
    r"(?<![\w$])\$(?=[^\s$])([^$]{1,200}?)(?<=\S)\$(?![\w$])"  # $...$
    r"|\\\(\s*(.{1,200}?)\s*\\\)"  # \(...\)
    r"|\\boxed\{([^{}]{1,200})\}"
)
_SPACE = re.compile(r"\s+")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,]|\.\d+,)")
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d+(?:[.,:]\d+)*|\.\d+)(?:e[-+]?\d+)?(?![\w])|(?<![\w)])[-+]?\.?\d[\w.,:]*",
    re.IGNORECASE,
)
_HYPHEN = re.compile(r"(?<=\w)-(?=[^\W\d])|(?<=[^\W\d])-(?=\w)")


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """The text with one kind of quotes, minus signs and spaces, and without Markdown's emphasis
    and LaTeX's marks of formulas and boxes."""
    text = unicodedata.normalize("NFC", text).translate(_LOOK_ALIKES)
    text = _LATEX.sub(lambda found: next(each for each in found.groups() if each), text)
    text = _SPACED_MINUS.sub(r"\1-", text)
    text = _UNARY_DASH.sub("-", text)
    text = _DASH.sub(" — ", text)
    text = _EMPHASIS.sub(r"\2", text)
    return _SPACE.sub(" ", text).strip()


@lru_cache(maxsize=4096)
def trimmed(text: str) -> str:
    """`plain`, without quotes around it and a full stop or the like behind it."""
    return plain(text).strip("\"'` ").rstrip(".,;:!? ").strip("\"'` ")


def folded(text: str) -> str:
    """`trimmed`, without case."""
    return trimmed(text).casefold()


@lru_cache(maxsize=4096)
def words_and_symbols(text: str) -> tuple[str, ...]:
    """Words, numbers and symbols in order; punctuation of prose, case and spaces are dropped."""
    return _pieces(text, without=PROSE)


@lru_cache(maxsize=4096)
def words_without_units(text: str) -> tuple[str, ...]:
    """`words_and_symbols` without signs of units: how an answer may leave out an option's unit."""
    return _pieces(text, without=PROSE + UNITS)


def numbers(text: str) -> tuple[str, ...]:
    """The numbers of a text with their signs, points and exponents, thousands joined."""
    return tuple(
        match.group().rstrip(".,:").lower() for match in _NUMBER.finditer(_joined(plain(text)))
    )


# From the finest to the coarsest.
FORMS: tuple[Form, ...] = (
    str.strip,
    plain,
    trimmed,
    folded,
    words_and_symbols,
)


def _joined(text: str) -> str:
    return _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)


def _pieces(text: str, *, without: str) -> tuple[str, ...]:
    text = _joined(plain(text))
    pieces: list[str] = []
    end = 0
    for match in _NUMBER.finditer(text):
        pieces += _words(text[end : match.start()], without)
        pieces.append(match.group().rstrip(".,:").casefold())
        end = match.end()
    return tuple(pieces + _words(text[end:], without))


def _words(text: str, without: str) -> list[str]:
    """Words with their apostrophes and hyphens dropped, and other symbols one by one."""
    text = _HYPHEN.sub("", text.replace("—", " ").casefold())
    pieces: list[str] = []
    for word in "".join("" if c in without else c for c in text).split():
        pieces += re.findall(r"\w+|\W", word)
    return pieces
