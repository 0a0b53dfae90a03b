"""What `cola fit --plot` draws: every group's rows and the curve of its best runs, with bands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.frontier import Frontier
from analysis.plotting.files import check_plot, draw_to
from analysis.plotting.style import SIZE, STYLE, log_axes
from analysis.plotting.variants import MARKERS
from cola.errors import SpecError

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's
POINTS = 80
# Fits without one curve of the loss in compute.
UNDRAWN = ("isoflop", "optima", "power", "speedup")


@dataclass
class Drawing:
    """Collects the groups of a fit, and draws them into a file."""

    path: Path
    groups: dict[str, tuple[pd.DataFrame, Frontier]] = field(default_factory=dict)

    @classmethod
    def asked(cls, path: Path | None, law: str, conventions: int = 1) -> Drawing | None:
        """None where no figure is asked for; `conventions`: of N or C, that are fitted.

        Raises:
            SpecError: the file or the law cannot be drawn.
        """
        if path is None:
            return None
        check_plot(path)
        if law in UNDRAWN:
            what = "--speedup" if law == "speedup" else f"law {law}"
            raise SpecError(f"--plot: {what} has no curve of the loss in compute; leave it out")
        if conventions > 1:
            raise SpecError(
                "--plot: draws one convention; give one column each for --n and --flops"
            )
        return cls(path)

    def add(self, name: str, rows: pd.DataFrame, frontier: Frontier) -> None:
        """A fitted group."""
        self.groups[name] = rows, frontier

    def write(self) -> Path:
        """The file, written.

        Raises:
            SpecError: no group has a curve.
            StorageError: it cannot be written.
        """
        if not self.groups:
            raise SpecError("--plot: what was fitted has no curve of the loss in compute")
        with mpl.rc_context(STYLE):
            return draw_to(self.figure(), self.path)

    def figure(self) -> Figure:
        """Rows as markers; the fit of the best size at every compute as a line; where the
        curve may lie dark, where new runs may lie light."""
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for place, (name, (rows, frontier)) in enumerate(self.groups.items()):
            colour = PALETTE[place % len(PALETTE)]
            marker = MARKERS[place % len(MARKERS)]
            axes.scatter(
                rows["compute"], rows["loss"], s=20, color=colour, marker=marker, alpha=0.7
            )
            curve = curve_of(frontier)
            label = f"{name} ({frontier.refits.fit.law.name})"
            axes.plot(curve["compute"], curve["loss"], color=colour, lw=1.6, label=label)
            for low, high, alpha in (("low", "high", 0.2), ("new_low", "new_high", 0.08)):
                if low in curve:
                    band = curve[low], curve[high]
                    axes.fill_between(curve["compute"], *band, color=colour, alpha=alpha, lw=0)
        sized = any(frontier.refits.fit.is_sized for _, frontier in self.groups.values())
        log_axes(axes, "training compute, FLOPs", "loss, nats/token")
        axes.legend(frameon=False, title="lowest loss of any size at a compute" if sized else None)
        return figure


def curve_of(frontier: Frontier) -> pd.DataFrame:
    """compute, loss, and of refits low, high (curves), new_low, new_high (new runs)."""
    compute = np.geomspace(*frontier.span, POINTS)
    values = frontier.values(compute)
    columns = {"compute": compute, "loss": values[0]}
    if len(values) > 1:
        level = frontier.refits.level
        bands = np.array([percentiles(column, level) for column in values[1:].T])
        low, high = frontier.refits.new_run_band(values[0], values[1:], compute)
        columns |= {"low": bands[:, 0], "high": bands[:, 1], "new_low": low, "new_high": high}
    return pd.DataFrame(columns)
