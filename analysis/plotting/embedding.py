"""Figures as files, and as a page holds them: for wide windows and for phones, in the page's
colours, with a text for who cannot see them."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from analysis.plotting.colours import mark, text
from analysis.plotting.style import FAINT, INK, STYLE, legend_above
from analysis.plotting.tooltips import insert_tooltips

NARROW = 4.0  # inches, of the figures that phones show: labels are as large as the text there
PANEL = 2.3  # inches, of one of their panels
OWN = {INK: "currentColor", FAINT: "var(--grid)"}
PLAIN = ("#ffffff", "#000000")  # on a shade, whatever the page's colour
COLOUR = re.compile(r"(?<=: )#[0-9a-f]{6}\b")
LABEL = re.compile(r'<text [^>]*style="[^"]*"')


class Drawn(NamedTuple):
    """A figure by its name, with what stands above, below and in place of it."""

    name: str
    title: str
    figure: Figure
    caption: str
    alternative: str


def embedded(drawn: Iterable[Drawn], folder: Path) -> list[dict[str, str]]:
    """Writes each figure as PNG and SVG; returns what a page's template needs of them."""
    return [
        {
            "name": each.name,
            "title": each.title,
            "caption": each.caption,
            "alternative": each.alternative,
            "svg": save_figure(each.figure, folder, each.name, each.alternative),
        }
        for each in drawn
    ]


def save_figure(figure: Figure, folder: Path, name: str, alternative: str) -> str:
    """Write PNG and SVG; returns both widths of the figure for a page."""
    with mpl.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white")
        wide = svg_of(figure)
        (folder / f"{name}.svg").write_text(wide, encoding="utf-8")
        make_narrow(figure)
        narrow = svg_of(figure)
    return "".join(
        f'<div class="{width}">{embeddable(svg, f"{name}-{width}", alternative)}</div>'
        for width, svg in (("wide", wide), ("narrow", narrow))
    )


def svg_of(figure: Figure) -> str:
    """The figure as SVG, with its tooltips."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return insert_tooltips(buffer.getvalue(), figure)


def make_narrow(figure: Figure) -> None:
    """Lay a figure out for phones: its panels one below the other."""
    for legend in list(figure.legends):
        title = legend.get_title().get_text()
        legend.remove()
        figure.set_size_inches(NARROW, figure.get_size_inches()[1])
        legend_above(figure, title)
    panels = [axes for axes in figure.axes if axes.axison and axes.get_subplotspec() is not None]
    columns = max((axes.get_subplotspec().get_gridspec().ncols for axes in panels), default=1)
    if columns == 1:
        figure.set_size_inches(NARROW, figure.get_size_inches()[1])
        return
    figure.set_size_inches(NARROW, PANEL * len(panels))
    grid = GridSpec(len(panels), 1, figure=figure)
    y_label, x_label = (
        next((label for axes in panels if (label := of(axes))), "")
        for of in (Axes.get_ylabel, Axes.get_xlabel)
    )
    for place, axes in enumerate(panels):
        axes.set_subplotspec(grid[place])
        axes.tick_params(labelbottom=True, labelleft=True)
        axes.set_ylabel(axes.get_ylabel() or y_label)
        axes.set_xlabel(x_label if axes is panels[-1] else "")


def embeddable(svg: str, name: str, alternative: str) -> str:
    """An inline SVG that scales with the page, follows its colours, keeps its ids to itself and is
    one picture with a text to screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'id="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    label = html.escape(alternative, quote=True)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    svg = LABEL.sub(lambda match: COLOUR.sub(_text_colour, match[0]), svg)
    return COLOUR.sub(_mark_colour, svg)


def _text_colour(match: re.Match[str]) -> str:
    return OWN.get(match[0]) or (match[0] if match[0] in PLAIN else text(match[0]))


def _mark_colour(match: re.Match[str]) -> str:
    colour = to_hex(match[0])
    return OWN.get(colour) or (colour if colour in PLAIN else mark(colour))
