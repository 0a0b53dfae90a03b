"""What a figure says where the mouse rests: SVG titles on the markers of runs, without scripts."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from matplotlib.collections import PathCollection

PREFIX = "runs-"


def attach_tooltips(markers: PathCollection, texts: Sequence[str]) -> None:
    """Attach a text to every marker of a scatter."""
    figure = markers.get_figure(root=True)
    if figure is None:
        raise ValueError("these markers are in no figure: draw them into axes first")
    kept: dict[str, list[str]] = figure.__dict__.setdefault("_tooltips", {})
    name = f"{PREFIX}{len(kept)}"
    markers.set_gid(name)
    kept[name] = list(texts)


def insert_tooltips(svg: str, figure: object) -> str:
    """Put the remembered texts into a figure's SVG."""
    for name, texts in getattr(figure, "_tooltips", {}).items():
        start = svg.find(f'<g id="{name}">')
        if start >= 0:
            svg = svg[:start] + _with_titles(svg[start:], texts)
    return svg


def _with_titles(svg: str, texts: Sequence[str]) -> str:
    """The first markers of an SVG, each with its text."""
    remaining = iter(texts)

    def titled(match: re.Match[str]) -> str:
        return f"<use{match[1]}><title>{html.escape(next(remaining))}</title></use>"

    return re.sub(r"<use([^>]*?)/>", titled, svg, count=len(texts))
