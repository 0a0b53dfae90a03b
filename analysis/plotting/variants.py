"""The curves of a study: a family each, or a variant of one; how each is named and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex, to_rgb

from cola.families.registry import curve_label, look_of, place_of

# What tells variants of one family apart, which share a hue. Shares of white (above 0) or black.
SHADES = (0.0, 0.4, -0.4, 0.65, -0.65)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTHS = (1.6, 2.6, 1.0)  # of exact curves, which are always solid
DASHES: tuple[Any, ...] = ("--", (0, (6, 1)), (0, (2, 2)), (0, (8, 2, 2, 2)), (0, (4, 4)))
BASES: tuple[Any, ...] = ((0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (8, 3)), (0, (1, 3)))


@dataclass(frozen=True)
class Style:
    """How a curve is named and drawn; `base` is the line of curves that are compared with it."""

    label: str
    colour: str
    marker: str
    dash: Any  # of a bound
    width: float
    base: Any

    def line(self, kind: str) -> Any:
        """Line style: solid where the likelihood is exact, dashed where it is a bound."""
        return "-" if kind == "exact" else self.dash


def variants_of(runs: pd.DataFrame) -> dict[str, str]:
    """Families by curve: families in the registry's order, variants of one by name."""
    pairs = runs.drop_duplicates("variant")[["variant", "family"]].itertuples(index=False)
    curves = [(str(variant), str(family)) for variant, family in pairs]
    return dict(sorted(curves, key=lambda pair: (place_of(pair[1]), pair[0] != pair[1], pair[0])))


def by_curve(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each curve with its runs, in the order that every table, figure and list has."""
    for variant in variants_of(runs):
        yield variant, runs[runs["variant"] == variant]


def styles_of(variants: Mapping[str, str]) -> dict[str, Style]:
    """By curve. A family's first curve has the family's own look."""
    styles: dict[str, Style] = {}
    for family in dict.fromkeys(variants.values()):
        mine = [variant for variant, of in variants.items() if of == family]
        look = look_of(family)
        looks = zip(
            mine,
            cycle(SHADES),
            islice(cycle((look.marker, *(m for m in MARKERS if m != look.marker))), len(mine)),
            cycle(DASHES),
            cycle(WIDTHS),
            (look.line, *islice(cycle(BASES), len(mine) - 1)),
            strict=False,
        )
        for variant, shade, marker, dash, width, base in looks:
            styles[variant] = Style(
                curve_label(variant, family), shaded(look.colour, shade), marker, dash, width, base
            )
    return styles


def shaded(colour: str, share: float) -> str:
    """The colour mixed with a share of white, or of black where it is negative."""
    if share == 0.0:
        return colour
    towards = 1.0 if share > 0 else 0.0
    return to_hex(tuple(c + (towards - c) * abs(share) for c in to_rgb(colour)))
