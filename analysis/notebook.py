"""Studies as objects for notebooks and scripts: what `cola report` reads and computes, as frames.

docs/notebook.md has the columns. Nothing is trained, and no file is written but where one is asked
for; neither torch nor Ray is needed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.fitting.compare import Prediction, predict
from analysis.plotting.files import draw_to
from analysis.plotting.style import STYLE
from analysis.report.family_fits import FamilyFit
from analysis.report.figures import drawn_figures
from analysis.report.findings import Findings, findings_of
from analysis.report.report import recorded_spec
from analysis.report.runs import StudyFrames
from analysis.report.tables import comparison_table, multiplier_table, optima_table
from analysis.study_source import StudySource, is_study_folder, study_source
from cola.errors import FitError, SpecError


def list_studies(output: str | Path = "outputs") -> list[str]:
    """Names of the studies of an output folder, those of other projects with them."""
    folders = sorted(Path(output).expanduser().glob("studies/*"))
    return [folder.name for folder in folders if is_study_folder(folder)]


def open_study(
    study: str, output: str | Path | None = None, *, tracking_uri: str | None = None
) -> Study:
    """A study by its name, its YAML file or its folder.

    `output`: the folder of its name (default: `outputs`, or the file's). `tracking_uri`: the MLflow
    that has its runs, where the output folder is not here.

    Raises:
        SpecError: there is no such study, or it has no runs yet.
        TrackingError: MLflow cannot be read.
    """
    source = study_source(study, None if output is None else str(output), tracking_uri)
    return Study(source, source.frames())


@dataclass(frozen=True, repr=False)
class Study:
    """The runs of a study as they were when it was opened.

    Losses are nats per token; `nll_kind` says of each whether it is exact, a bound or an estimate.
    """

    source: StudySource
    frames: StudyFrames

    def __repr__(self) -> str:
        states = ", ".join(
            f"{n} {state}" for state, n in self.runs["status"].value_counts().items()
        )
        return f"<study {self.name}: {states}>"

    @property
    def name(self) -> str:
        """The study's name."""
        return self.source.name

    @property
    def specification(self) -> dict[str, Any]:
        """The study's keys, as its driver recorded them."""
        return self.source.spec or recorded_spec(self.name, self.frames)

    @property
    def runs(self) -> pd.DataFrame:
        """One row a run, whatever its state: sizes, budget, last losses, tokens, FLOPs, seconds."""
        return self.frames.runs

    @property
    def validations(self) -> pd.DataFrame:
        """One row a validation of a run; `is_final` is that of a finished run's end."""
        return self.frames.points

    @property
    def curves(self) -> pd.DataFrame:
        """One row a logged step of training."""
        return self.frames.curves

    @property
    def evaluations(self) -> pd.DataFrame:
        """One row a measurement of a finished model on a task."""
        return self.frames.evaluations

    @property
    def diagnostics(self) -> pd.DataFrame:
        """One row a measurement of a finished model beside its likelihood."""
        return self.frames.diagnostics

    @property
    def metrics(self) -> pd.DataFrame:
        """The last value of every metric in MLflow: one row a run, by its name, one column each."""
        rows = {run["name"]: self.frames.metrics[run["run_id"]] for _, run in self.runs.iterrows()}
        return pd.DataFrame.from_dict(rows, orient="index").sort_index(axis="columns")

    @property
    def samples(self) -> pd.DataFrame:
        """Continuations by the largest finished model of every curve."""
        return pd.DataFrame(self.frames.samples)

    @property
    def notes(self) -> list[str]:
        """What was left out or is in doubt, as the report says it; read it before numbers."""
        return self.findings.warnings

    @cached_property
    def findings(self) -> Findings:
        """All that the report computes of the runs.

        Raises:
            SpecError: no run is finished.
        """
        if self.validations.empty or not self.validations["is_final"].any():
            raise SpecError(
                f"study {self.name}: no run is finished yet, so there is nothing to fit"
            )
        return findings_of(self.frames)

    @property
    def fits(self) -> dict[str, FittedCurve]:
        """Loss against training FLOPs, by curve (a family, or a variant of one)."""
        return {variant: FittedCurve(fit) for variant, fit in self.findings.fits.items()}

    @property
    def comparisons(self) -> pd.DataFrame:
        """One row a pair of curves: compute of `one` over that of `other` for the same loss."""
        return comparison_table(self.findings.pairs)

    @property
    def multipliers(self) -> pd.DataFrame:
        """That multiplier at every loss that both curves reach."""
        return multiplier_table(self.findings.pairs)

    @property
    def isoflop_optima(self) -> pd.DataFrame:
        """The best size of every budget that was trained at several sizes."""
        return optima_table(self.findings.profiles)

    @cached_property
    def figures(self) -> dict[str, Drawing]:
        """The report's figures by name; a notebook shows one that ends a cell."""
        drawn = drawn_figures(self.frames, self.findings)
        return {name: Drawing(title, caption, figure) for name, title, figure, caption, *_ in drawn}


@dataclass(frozen=True, repr=False)
class FittedCurve:
    """The scaling curve of a family or variant, or why there is none (`warnings`)."""

    family_fit: FamilyFit

    def __repr__(self) -> str:
        return f"<{self.label} ({self.nll_kind}): {self.formula}>"

    @property
    def label(self) -> str:
        """The curve's name for people."""
        return self.family_fit.label

    @property
    def nll_kind(self) -> str:
        """What the weakest of its losses is: exact, bound or estimate."""
        return self.family_fit.kind

    @property
    def law(self) -> str | None:
        """The name of the law; None without a curve."""
        fit = self.family_fit.fit
        return None if fit is None else fit.law.name

    @property
    def formula(self) -> str:
        """The fitted law in words."""
        return self.family_fit.formula

    @property
    def parameters(self) -> dict[str, float]:
        """Of the law, in nats and FLOPs; empty without a curve."""
        fit = self.family_fit.fit
        return {} if fit is None else fit.parameters

    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]:
        """95% intervals of the parameters; empty without a curve."""
        refits = self.family_fit.refits
        return {} if refits is None else refits.intervals()

    @property
    def band(self) -> pd.DataFrame:
        """The curve over the measured budgets, with the bands that the report draws: flops, loss,
        low and high of the curve, new_low and new_high of a new run."""
        curve = self.family_fit.curve
        return pd.DataFrame() if curve is None else curve

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before the curve is quoted."""
        return self.family_fit.warnings

    def predict(self, flops: float) -> Prediction:
        """The loss at a budget: `loss.value` with its 95% interval, `prediction_low` and
        `prediction_high` of a new run, and `extrapolation_note`.

        Raises:
            FitError: there is no curve.
        """
        if self.family_fit.refits is None:
            raise FitError(f"{self.label}: {'; '.join(self.warnings)}")
        return predict(self.family_fit.refits, flops)


@dataclass(frozen=True)
class Drawing:
    """A figure of the report. `figure`: matplotlib's, to change as one likes."""

    title: str
    caption: str
    figure: Figure

    def save(self, path: str | Path) -> Path:
        """Write it as the file's ending says: .png, .svg or .pdf.

        Raises:
            StorageError: it cannot be written.
        """
        return draw_to(self.figure, Path(path))

    def _repr_svg_(self) -> str:
        buffer = io.StringIO()
        with mpl.rc_context(STYLE):
            self.figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
        return buffer.getvalue()
