"""The report, from a real MLflow store to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric as MlflowMetric
from mlflow.entities import Param
from mlflow.tracking import MlflowClient

from analysis.matching import common_order
from analysis.report import write_report
from analysis.runs import read_study
from cola.records import SCHEMA_VERSION, Artifact, Metric, Tag
from cola.spec import SpecError

KINDS = {"ar": "exact", "llada": "bound", "cola": "bound"}
LEVELS = {"ar": 4.0, "llada": 5.5, "cola": 9.0}
BUDGETS = (1e12, 2e12, 4e12, 8e12)


class Store:
    """Writes runs as the recorder does, through MLflow's own client."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(tracking_uri=self.uri)
        self.count = 0

    def experiment(self, study: str) -> str:
        found = self.client.get_experiment_by_name(study)
        if found:
            return str(found.experiment_id)
        location = (self.folder / "artifacts").as_uri()
        return str(self.client.create_experiment(study, artifact_location=location))

    def run(
        self, study: str, family: str, rung: int, level: float | None = None, **changes: str
    ) -> None:
        self.count += 1
        budget = BUDGETS[rung]
        tags = {
            Tag.STUDY: study,
            Tag.FAMILY: family,
            Tag.RUN_KEY: f"{family}-{rung}",
            Tag.RUNG: str(rung),
            Tag.BUDGET: repr(budget),
            Tag.SEED: "66",
            Tag.STATUS: "finished",
            Tag.NLL_KIND: KINDS[family],
            Tag.COMPUTE: "executed",
            Tag.CORE_PARAMETERS: str(200_000 + rung),
            Tag.EMBEDDING_PARAMETERS: "100000",
            Tag.TOTAL_PARAMETERS: "300000",
            Tag.DATA_ORDER: json.dumps({"1": "a", "64": "b"}),
            Tag.SCHEMA_VERSION: SCHEMA_VERSION,
        } | changes
        created = self.client.create_run(
            self.experiment(study), tags=tags, run_name=f"{family}-{budget:.3g}-seed66",
            start_time=self.count,
        )  # fmt: skip
        metrics = []
        for part in (1, 2):
            step, flops = 50 * part, 0.99 * budget * part / 2
            nll = (level or LEVELS[family]) * (flops / 1e12) ** -0.05
            values = {
                Metric.TRAIN_LOSS: nll + 0.1,
                Metric.TOKENS: step * 100.0,
                Metric.TRAIN_FLOPS_EXECUTED: flops,
                Metric.TRAIN_FLOPS_NOMINAL: 0.8 * flops,
                Metric.NLL: nll,
                Metric.NLL_STANDARD_ERROR: 0.02,
                Metric.BITS_PER_BYTE: nll / 2.3,
                Metric.ELAPSED_SECONDS: 10.0 * part,
                Metric.TOKENS_PER_SECOND: 5000.0,
            }
            if family == "cola" and part == 2:
                values[Metric.diagnostic("log_snr")] = 4.0 + rung
            metrics += [MlflowMetric(name, value, part, step) for name, value in values.items()]
        params = [Param("stages.0.steps", "100")]
        self.client.log_batch(created.info.run_id, metrics=metrics, params=params)
        sample = {"family": family, "step": 100, "prompt": "<b>def", "continuation": " f(): pass",
                  "reference": "x"}  # fmt: skip
        self.client.log_text(created.info.run_id, json.dumps(sample), Artifact.SAMPLES)
        self.client.log_text(created.info.run_id, '{"python": "3.11"}', Artifact.ENVIRONMENT)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    for family in KINDS:
        for rung in range(4):
            store.run("full", family, rung)
    store.run("full", "ar", 0, **{Tag.STATUS: "failed"})  # the first, unlucky try of a finished run
    store.run("full", "ar", 1, **{Tag.RUN_KEY: "other", Tag.STATUS: "diverged"})
    return store


def test_one_row_an_evaluation_point_and_rules_that_are_told(store: Store) -> None:
    frames = read_study("full", store.uri)
    assert len(frames.runs) == 13
    assert len(frames.points) == 26
    assert frames.points["is_final"].sum() == 12
    assert any("1 duplicated runs" in note for note in frames.notes)
    assert any("1 runs are diverged and kept out" in note for note in frames.notes)


def test_the_report_says_what_was_found(store: Store, tmp_path: Path) -> None:
    spec: dict[str, Any] = {"description": "A <test>.", "tracking": {"uri": None}}
    result = write_report("full", store.uri, tmp_path, spec)
    for family, fit in result.fits.items():
        assert fit.kind == KINDS[family]
        assert fit.fit is not None
        assert fit.fit.parameters["gamma"] == pytest.approx(0.05, rel=0.01)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"report.html", "report.md", "results.csv", "loss_compute.png", "loss_compute.svg",
            "fitted_curves.csv", "evaluations.csv", "training_curves.csv"} <= names  # fmt: skip
    html = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;def" in html
    assert "A &lt;test&gt;." in html
    assert "LLaDA (bound)" in html
    assert "AR (bound)" not in html
    assert "Data order: equal in all 12 runs" in html
    assert "must not be extrapolated" in html
    assert "http://" not in html.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")
    assert "does NOT fall" not in html
    diagnostics = pd.read_csv(tmp_path / "diagnostics.csv")
    assert diagnostics["value"].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert "<td>log_snr</td><td>7</td>" in html
    assert "<td>log_snr</td><td>4</td>" not in html  # the largest model's alone
    table = pd.read_csv(tmp_path / "results.csv")
    assert len(table) == 13
    markdown = (tmp_path / "report.md").read_text()
    assert "![Validation loss against training compute](loss_compute.png)" in markdown


def test_families_are_compared_and_predicted(store: Store, tmp_path: Path) -> None:
    write_report("full", store.uri, tmp_path, {}, [1e15])
    html = (tmp_path / "report.html").read_text()
    assert "LLaDA against AR: no loss is reached by both" in html
    assert "by an upper bound of the NLL: at its true NLL it needs less" in html
    assert "126 times beyond the largest measured budget: this rests on the law" in html
    predicted = 4.0 * 1e3**-0.05
    assert f"<td>{predicted:.3f}</td>" in html


def test_several_sizes_a_budget_give_profiles_and_no_cloud(store: Store, tmp_path: Path) -> None:
    for rung in range(3):
        for place, size in enumerate(np.geomspace(1e5, 4e5, 5) * 1.5**rung):
            away = (np.log(size / (2e5 * 1.5**rung))) ** 2
            store.run(
                "sizes", "ar", rung, level=3.0 * (1 + 0.05 * away),
                **{Tag.RUN_KEY: f"{rung}-{place}", Tag.CORE_PARAMETERS: str(round(size))},
            )  # fmt: skip
    result = write_report("sizes", store.uri, tmp_path, {})
    fit = result.fits["ar"].fit
    assert fit is not None
    assert len(fit.points) == 3  # the best size of every budget
    html = (tmp_path / "report.html").read_text()
    exponent = np.log(1.5) / np.log(2)
    assert f"grows as C^{exponent:.3f}" in html
    optima = pd.read_csv(tmp_path / "isoflop_optima.csv")
    expected = [2e5 * 1.5**rung for rung in range(3)]
    assert optima["parameters"].tolist() == pytest.approx(expected, rel=0.01)


def test_what_cannot_be_reported_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no such experiment; it has: .*full"):
        write_report("absent", store.uri, tmp_path, {})
    store.run("unfinished", "ar", 0, **{Tag.STATUS: "running"})
    with pytest.raises(SpecError, match="no run is finished yet"):
        write_report("unfinished", store.uri, tmp_path, {})
    store.run("foreign", "ar", 0, **{Tag.SCHEMA_VERSION: "99"})
    with pytest.raises(SpecError, match="schema version 99"):
        write_report("foreign", store.uri, tmp_path, {})


def test_orders_are_compared_where_all_runs_have_a_digest() -> None:
    short, long = {"1": "a", "2": "b"}, {"1": "a", "2": "b", "4": "c"}
    assert common_order({"x": short, "y": long}) == (2, True)
    assert common_order({"x": short, "y": long | {"2": "z"}}) == (2, False)
    assert common_order({"x": short, "y": {}}) == (0, False)
    assert common_order({}) == (0, False)
