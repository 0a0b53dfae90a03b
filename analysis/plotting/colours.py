"""Colours that can be read on light and dark pages: contrast as WCAG 2.2 defines it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_hex, to_rgb

# Least contrast with what lies behind: of text (WCAG 2.2, 1.4.3), of lines and markers (1.4.11).
TEXT, MARK = 4.5, 3.0
# What lies behind on a page: the page itself and its raised parts, as `style.css.j2` paints them.
SCHEMES: dict[str, dict[str, str]] = {
    "light": {
        "page": "#ffffff", "card": "#f5f6f8", "ink": "#22262c", "soft": "#58606b",
        "accent": "#0067a3", "line": "#dfe3e8", "grid": "#e1e5ea",
    },
    "dark": {
        "page": "#15181c", "card": "#1e2228", "ink": "#e8eaee", "soft": "#a9b1be",
        "accent": "#56b4e9", "line": "#343a43", "grid": "#343a43",
    },
}  # fmt: skip
USED = re.compile(r"var\(--([mt])-([0-9a-f]{6})\)")
LEAST = {"t": TEXT, "m": MARK}


def luminance(colour: str) -> float:
    """Relative luminance, 0 (black) to 1 (white)."""
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def readable(colour: str, behind: Sequence[str], least: float) -> str:
    """The colour, mixed with as little black or white as gives it this contrast with all of what
    may lie behind it."""
    towards = 0.0 if luminance(behind[0]) > 0.5 else 1.0
    for share in np.linspace(0, 1, 101):
        mixed = to_hex([c + (towards - c) * share for c in to_rgb(colour)])
        if min(contrast(mixed, each) for each in behind) >= least:
            return mixed
    return to_hex([towards] * 3)


def text_on(colour: str) -> str:
    """Black or white, whichever is the easier to read on a colour: at least 4.58 of contrast."""
    return max(("black", "white"), key=lambda ink: contrast(ink, colour))


def mark(colour: str) -> str:
    """A curve's colour for lines and markers on a page, in either scheme."""
    return f"var(--m-{to_hex(colour)[1:]})"


def text(colour: str) -> str:
    """A curve's colour for text on a page, in either scheme."""
    return f"var(--t-{to_hex(colour)[1:]})"


def definitions(page: str) -> dict[str, str]:
    """By scheme, CSS declarations of the scheme's own colours and of those that the page uses."""
    used = sorted(set(USED.findall(page)))
    return {
        scheme: " ".join(
            [f"--{name}: {value};" for name, value in own.items()]
            + [
                f"--{kind}-{code}: {readable(f'#{code}', (own['page'], own['card']), LEAST[kind])};"
                for kind, code in used
            ]
        )
        for scheme, own in SCHEMES.items()
    }
