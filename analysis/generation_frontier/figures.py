"""The figures of a frontier: quality against entropy, and against what a token costs."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.generation_frontier.record import COST_KEYS, Frontier, Quality
from analysis.plotting.embedding import Drawn
from analysis.plotting.style import (
    INK,
    PANEL_GAP,
    SIZE,
    STYLE,
    budget_ticks,
    compute_ticks,
    error_bars,
    legend_above,
    nice_ticks,
)
from analysis.plotting.tooltips import attach_tooltips
from analysis.plotting.variants import Style

NAMES = ("frontier", "frontier_cost")
HEIGHT = 3.4  # inches of a row of panels; chosen
DOMINATED = 0.35  # opacity of settings that another one beats in both
ENTROPY = "entropy"
STAR = 150  # size of the text's own mark


def frontier_figures(frontier: Frontier, styles: Mapping[str, Style]) -> list[Drawn]:
    """Both figures, of the curves that have a style."""
    mine = {variant: styles[variant] for variant in frontier.variants if variant in styles}
    if not mine or not frontier.qualities:
        return []
    return [diversity(frontier, mine), cost(frontier, mine)]


def diversity(frontier: Frontier, styles: Mapping[str, Style]) -> Drawn:
    """Every setting's quality against the entropy of its texts."""
    with mpl.rc_context(STYLE):
        figure, panels = row_of(len(frontier.qualities))
        for axes, quality in zip(panels, frontier.qualities, strict=True):
            for variant, style in styles.items():
                draw_settings(axes, frontier, variant, style=style, quality=quality)
            draw_truth(axes, frontier, quality)
            axes.set_xlabel("entropy of a text's tokens, nats")
            axes.set_ylabel(y_label(quality))
        legend_above(figure)
    title = "Quality of generated text against its diversity"
    caption = (
        "A marker a sampling setting, with 95% of its error over documents; lines join settings "
        "that no other of the same family beats in both quality and entropy, the others are pale. "
        "The star, and the dotted line, are the text itself. NLL: nats a token given the prompt."
    )
    words = " ".join(frontier.sentences) or "No entropy in common."
    return Drawn(NAMES[0], title, figure, caption, f"{title}. {words}")


def cost(frontier: Frontier, styles: Mapping[str, Style]) -> Drawn:
    """Quality against the FLOPs of a new token, of settings at the base temperature and cut-off."""
    with mpl.rc_context(STYLE):
        figure, panels = row_of(len(frontier.qualities))
        for axes, quality in zip(panels, frontier.qualities, strict=True):
            for variant, style in styles.items():
                draw_costs(axes, frontier, variant, style=style, quality=quality)
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            ticks = budget_ticks(nice_ticks(low, high, [1, 2, 5]), low, high, PANEL_GAP)
            compute_ticks(axes, ticks or nice_ticks(low, high, [1]))
            axes.set_xlabel("executed FLOPs a new token")
            axes.set_ylabel(y_label(quality))
        legend_above(figure)
    title = "Quality of generated text against what a token costs"
    caption = (
        "Settings that change the cost alone (steps, tokens a pass, guidance), at the base "
        "temperature and cut-off; the prompt's share is included. Their entropies differ: they are "
        "in the table, and where the mouse rests."
    )
    words = f"{title}. {cost_words(frontier, styles)}"
    return Drawn(NAMES[1], title, figure, caption, words)


def row_of(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure with this many panels side by side."""
    figure = Figure(figsize=(SIZE[0], HEIGHT + 0.6), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def y_label(quality: Quality) -> str:
    """The quality, and which way is better: short, as a panel is not high."""
    return f"{quality.label}, {'lower' if quality.lower_is_better else 'higher'} better"


def draw_settings(
    axes: Axes, frontier: Frontier, variant: str, *, style: Style, quality: Quality
) -> None:
    """A curve's settings, and a line through those that none beats."""
    mine = frontier.points[frontier.points["variant"] == variant].dropna(subset=[quality.name])
    if mine.empty:
        return
    best = undominated(mine, quality)
    front = mine[best].sort_values(ENTROPY)
    axes.plot(front[ENTROPY], front[quality.name], color=style.colour, lw=style.width,
              label=style.label)  # fmt: skip
    for part, opacity in ((mine[best], 1.0), (mine[~best], DOMINATED)):
        scatter(axes, part, ENTROPY, quality=quality, style=style, opacity=opacity)
    if quality.error in mine:
        error_bars(axes, mine[ENTROPY], mine[quality.name], mine[quality.error],
                   colour=style.colour)  # fmt: skip


def draw_costs(
    axes: Axes, frontier: Frontier, variant: str, *, style: Style, quality: Quality
) -> None:
    """A curve's settings of different cost, joined where they differ in one key."""
    mine = frontier.points[frontier.points["variant"] == variant].reset_index(drop=True)
    costs = mine[[set(changed) <= set(COST_KEYS) for changed in mine["changed"]]]
    costs = costs.dropna(subset=[quality.name])
    for one, other in frontier.edges.get(variant, []):
        if {one, other} <= set(costs.index):
            ends = costs.loc[[one, other]]
            axes.plot(ends["flops_per_token"], ends[quality.name], color=style.colour, lw=1.0)
    scatter(axes, costs, "flops_per_token", quality=quality, style=style, label=style.label)
    if quality.error in costs:
        error_bars(axes, costs["flops_per_token"], costs[quality.name], costs[quality.error],
                   colour=style.colour)  # fmt: skip


def scatter(
    axes: Axes,
    points: pd.DataFrame,
    column: str,
    *,
    quality: Quality,
    style: Style,
    opacity: float = 1.0,
    label: str | None = None,
) -> None:
    """Settings as markers that say what they are where the mouse rests."""
    if points.empty:
        return
    drawn = axes.scatter(
        points[column], points[quality.name], s=30, marker=style.marker, color=style.colour,
        alpha=opacity, label=label, zorder=3,
    )  # fmt: skip
    texts = [
        f"{row['label']}, {row['setting']}: {quality.label} {row[quality.name]:.4g}, entropy "
        f"{row[ENTROPY]:.3f} nats, {row['flops_per_token']:.3g} FLOPs a token"
        for _, row in points.iterrows()
    ]
    attach_tooltips(drawn, texts)


def draw_truth(axes: Axes, frontier: Frontier, quality: Quality) -> None:
    """The text itself: its entropy, and its quality where that has a meaning."""
    entropy, value = frontier.truth[ENTROPY], frontier.truth.get(quality.name)
    axes.axvline(entropy, color=INK, lw=0.8, ls=":", alpha=0.7)
    if value is None:
        return
    drawn = axes.scatter(
        [entropy], [value], s=STAR, marker="*", color=INK, label="the text itself", zorder=4
    )
    attach_tooltips(drawn, [f"the text itself: {quality.label} {value:.4g}, {entropy:.3f} nats"])


def undominated(points: pd.DataFrame, quality: Quality) -> pd.Series:
    """Which settings no other is at least as good as in quality and entropy, and better in one."""
    entropy = points[ENTROPY].to_numpy()
    value = points[quality.name].to_numpy() * (-1 if quality.lower_is_better else 1)
    least = (entropy[:, None] >= entropy) & (value[:, None] >= value)
    better = (entropy[:, None] > entropy) | (value[:, None] > value)
    return pd.Series(~(least & better).any(0), index=points.index)


def cost_words(frontier: Frontier, styles: Mapping[str, Style]) -> str:
    """In words, between which costs each curve's settings lie."""
    texts = []
    for variant, style in styles.items():
        flops = frontier.points.loc[frontier.points["variant"] == variant, "flops_per_token"]
        texts.append(f"{style.label}: {np.min(flops):.3g} to {np.max(flops):.3g} FLOPs a token")
    return f"{'; '.join(texts)}."
