"""Figures of a rate sweep: the frontier of every budget, profiles, and how their minima grow."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.plotting.embedding import Drawn
from analysis.plotting.style import INK, MUTED, SIZE, STYLE, legend_above, log_axes
from analysis.plotting.tooltips import attach_tooltips
from analysis.sweep_report.plots import COLOURS
from analysis.sweep_report.rate_answers import RateAnswer
from analysis.sweep_report.rate_forecast import drawn_line
from analysis.sweep_report.rate_profiles import Best, RateAnalysis

BEYOND = 1.5  # chosen: factor of compute that a law is drawn beyond the budgets


def rate_figures(answer: RateAnswer) -> Iterator[Drawn]:
    """The frontier, the profiles, and R*(C) of a rate sweep's arm."""
    if answer.analysis.runs.empty:
        return
    name = answer.arm.name
    stem, prefix = (f"-{name}", f"{name}: ") if name else ("", "")
    optima = "; ".join(
        f"{best.budget:.3g} FLOPs: rate {best.values['rate']:.3g}, bound {best.values['bound']:.4g}"
        for best in answer.analysis.good
    )
    words = f"Best of every budget: {optima or 'none was found'}."
    caption = (
        "Every dot a run; stars: the lowest bound of each budget, on the dashed line of equal "
        "bound. Crosses: latents that say next to nothing, in no profile."
    )
    title = f"{prefix}Distortion against rate"
    yield Drawn(f"frontier{stem}", title, frontier_plot(answer), caption, f"{title}. {words}")
    caption = "Stars: minima of the parabolas in log rate, with 95% of refits."
    title, figure = f"{prefix}Bound by rate", profiles_plot(answer.analysis)
    yield Drawn(f"profiles{stem}", title, figure, caption, f"{title}. {words}")
    if answer.analysis.good:
        caption = (
            "Minima with 95% of refits, the fitted power law with its 95% band"
            f"{'; orange: registered forecasts' if answer.scores else ''}."
        )
        title = f"{prefix}Best rate by compute"
        yield Drawn(f"best-rate{stem}", title, growth_plot(answer), caption, f"{title}. {words}")


def frontier_plot(answer: RateAnswer) -> Figure:
    """Distortion against rate, a colour a budget."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        dead = answer.points.silent
        for colour, best in _coloured(answer.analysis):
            runs = answer.analysis.runs
            runs = runs[runs["budget"] == best.budget].sort_values("rate")
            label = f"{best.budget:.3g} FLOPs"
            axes.plot(runs["rate"], runs["distortion"], "-", color=colour, lw=1.0, alpha=0.6)
            dots = axes.scatter(runs["rate"], runs["distortion"], color=colour, s=30, label=label,
                                zorder=3)  # fmt: skip
            attach_tooltips(dots, [f"{r.point}: bound {r.bound:.4f}" for r in runs.itertuples()])
            gone = dead[dead["budget"] == best.budget]
            axes.scatter(gone["rate"], gone["distortion"], color=colour, marker="x", s=30)
            if best.trouble is None:
                rate, distortion = best.values["rate"], best.values["distortion"]
                axes.scatter([rate], [distortion], color=colour, marker="*", s=150, zorder=4,
                             edgecolors=INK, linewidths=0.6)  # fmt: skip
                reach = 0.25 * rate * np.array([-1.0, 1.0])
                axes.plot(rate + reach, distortion - reach, "--", color=INK, lw=0.9)
        legend_above(figure)
        axes.set_xlabel("rate (nats a token that latents cost)")
        axes.set_ylabel("distortion (nats a token of reconstruction)")
    return figure


def profiles_plot(analysis: RateAnalysis) -> Figure:
    """The bound against the rate, a colour a budget, with the fitted parabolas."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        fitted = (
            {} if analysis.analysis is None else {p.compute: p for p in analysis.analysis.fitted}
        )
        for colour, best in _coloured(analysis):
            runs = analysis.runs[analysis.runs["budget"] == best.budget]
            axes.scatter(runs["rate"], runs["bound"], color=colour, s=26,
                         label=f"{best.budget:.3g} FLOPs")  # fmt: skip
            if best.budget not in fitted or best.trouble is not None:
                continue
            profile = fitted[best.budget]
            x = np.linspace(profile.log_n.min(), profile.log_n.max(), 80)
            centre = profile.log_n.mean()
            curve = np.polyfit(profile.log_n - centre, profile.loss, 2)
            axes.plot(np.exp(x), np.polyval(curve, x - centre), "-", color=colour, lw=1.2)
            _star(axes, best, colour)
        legend_above(figure)
        log_axes(axes, "rate (nats a token)", "bound (nats a token)")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


def growth_plot(answer: RateAnswer) -> Figure:
    """R* and D* against compute, with laws and forecasts."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1] * 1.5), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        for axes, name, label in zip(
            panels, ("rate", "distortion"), ("best rate R*", "distortion D* there"), strict=True
        ):
            _growth_panel(axes, answer, name)
            log_axes(axes, "training FLOPs", f"{label} (nats a token)")
        panels[0].set_xlabel("")
    return figure


def _growth_panel(axes: Axes, answer: RateAnswer, name: str) -> None:
    good = answer.analysis.good
    x = np.array([best.budget for best in good])
    law = answer.analysis.laws.get(name)
    if law is not None:
        line = np.geomspace(x.min() / BEYOND, x.max() * BEYOND, 60)
        axes.plot(line, law.fit.at(line), "--", color=COLOURS[0], lw=1.3)
        band = drawn_line(answer.analysis, name, line)
        if band is not None and np.isfinite(band).all():
            axes.fill_between(line, *band, color=COLOURS[0], alpha=0.15, lw=0)
    for best in good:
        low, high = best.intervals[name]
        value = best.values[name]
        if np.isfinite([low, high]).all():
            axes.plot([best.budget] * 2, [low, high], "-", color=COLOURS[0], lw=1.4)
        axes.scatter([best.budget], [value], color=COLOURS[0], s=36, zorder=3)
    for score in answer.scores:
        forecast = score.forecast
        if forecast is None or name not in forecast.values:
            continue
        at = score.budget * 1.03  # beside what was measured
        low, high = forecast.intervals[name]
        if np.isfinite([low, high]).all():
            axes.plot([at] * 2, [low, high], "-", color=COLOURS[1], lw=1.4)
        axes.scatter([at], [forecast.values[name]], color=COLOURS[1], s=36, marker="D", zorder=3)


def _star(axes: Axes, best: Best, colour: str) -> None:
    low, high = best.intervals["rate"]
    rate, bound = best.values["rate"], best.values["bound"]
    if np.isfinite([low, high]).all():
        axes.plot([low, high], [bound] * 2, "-", color=INK, lw=1.0)
    axes.scatter([rate], [bound], color=colour, marker="*", s=130, zorder=4, edgecolors=INK,
                 linewidths=0.6)  # fmt: skip


def _coloured(analysis: RateAnalysis) -> list[tuple[str, Best]]:
    colours = (*COLOURS, MUTED)
    return [(colours[i % len(colours)], best) for i, best in enumerate(analysis.best)]
