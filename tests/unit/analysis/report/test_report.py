"""The report, from a real MLflow store to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.conditions.matching import common_order, matching_statements
from analysis.generation_frontier.record import read_frontier
from analysis.metric_report.report import write_metric_report
from analysis.plotting.templates import render
from analysis.report.comparisons import bound_caveat
from analysis.report.content import estimate_sentences, kind_sentences, page
from analysis.report.family_fits import FamilyFit, fit_families
from analysis.report.findings import findings_of
from analysis.report.report import ReportResult, report_of, write_report
from analysis.report.runs import read_study
from analysis.report.tables import latent_rows, latent_warnings
from cola.errors import SpecError, TrackingError
from cola.records import LIKELIHOOD_MEASUREMENTS, STUDY_FRONTIER, Kind, Metric, Tag
from tests.pages import text_of
from tests.unit.analysis.frontier_record import SENTENCE, made_up_frontier
from tests.unit.analysis.store import BUDGETS, KINDS, Store


def test_one_row_an_evaluation_point_and_notes_on_what_is_left_out(store: Store) -> None:
    frames = read_study("full", store.uri)
    assert len(frames.runs) == 13
    assert len(frames.points) == 26
    assert frames.points["is_final"].sum() == 12
    assert any("1 duplicated runs" in note for note in frames.notes)
    assert any("1 runs are diverged and kept out" in note for note in frames.notes)


OF_OTHERS = ["isoflop.svg", "isoflop.png", "isoflop_optima.csv", "bits_per_byte.svg"]


@pytest.fixture(scope="module")
def report(store: Store) -> ReportResult:
    """Of the whole study with its generation frontier, in a folder with files of an earlier
    report."""
    spec: dict[str, Any] = {"description": "A <test>.", "tracking": {"uri": None}}
    folder = store.folder / "report"
    folder.mkdir()
    for name in OF_OTHERS:
        (folder / name).write_text("of an earlier report")
    (store.folder / STUDY_FRONTIER).write_text(json.dumps(made_up_frontier()))
    frames, generation = read_study("full", store.uri), read_frontier(store.folder)
    return report_of("full", frames, folder, spec=spec, generation=generation)


def test_the_report_says_what_was_found(report: ReportResult) -> None:
    folder = report.html.parent
    for family, fit in report.fits.items():
        assert fit.kind == KINDS[family]
        assert fit.fit is not None
        assert fit.fit.parameters["gamma"] == pytest.approx(0.05, rel=0.01)
        assert fit.curve is not None
        assert (fit.curve["new_low"] <= fit.curve["low"]).all()  # a run has its noise beside
        assert (fit.curve["new_high"] >= fit.curve["high"]).all()
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "report.md", "results.csv", "loss_compute.png", "loss_compute.svg",
            "fitted_curves.csv", "evaluations.csv", "training_curves.csv"} <= names  # fmt: skip
    assert not names & set(OF_OTHERS)
    assert all(pd.read_csv(path).size for path in folder.glob("*.csv"))  # none is empty
    html = (folder / "report.html").read_text()
    assert "<h1>AR has the lowest loss at every shared budget (AR 3.61, " in html
    assert "1 nat per token is 0.435" in text_of(html)  # which a figure of its own would repeat
    assert "2.0 times beyond the largest measured budget" in html  # no further unless asked
    assert "&lt;b&gt;def" in html
    assert "A &lt;test&gt;." in html
    text = text_of(html)
    assert "LLaDA (bound)" in text
    assert "AR (bound)" not in text
    assert "Data order: equal in all 12 runs" in html
    assert "must not be extrapolated" in html
    assert "http://" not in html.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")
    assert "does NOT fall" not in html
    assert "cola-8e+12-seed66|0.700 ± 0.020|" in text
    # Every finished run says what it is where the mouse rests, on wide windows and on phones.
    assert html.count("core parameters, ") >= 24
    assert "<title>llada-4e+12-seed66: " in html
    diagnostics = pd.read_csv(folder / "diagnostics.csv")
    assert diagnostics["value"].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert "log_snr|7|" in text
    assert "log_snr|4|" not in text  # the largest model's alone
    tasks = pd.read_csv(folder / "task_accuracies.csv")
    assert sorted(set(tasks["task"])) == ["task1", "task2"]
    assert len(tasks) == 12 * 2
    assert (folder / "tasks.svg").exists()
    assert "task1|accuracy|45.0%|45.0%|45.0%|" in text
    assert SENTENCE in text
    assert "AR, temperature 0.5: NLL by the reference 2, entropy 2.000 nats" in html
    assert "AR|1|100|0.01|1|0.5|" in text
    table = pd.read_csv(folder / "results.csv")
    assert len(table) == 13
    markdown = (folder / "report.md").read_text()
    assert "![Validation loss against training compute. AR: 4.00 at 1e12 FLOPs to 3." in markdown
    assert "A &lt;test>." in markdown
    assert "`<b>def`" in markdown  # inert in a code span


def test_runs_of_studies_and_restarts_change_nothing(store: Store) -> None:
    """Training runs of stores from before the tag of kinds have none, and are read."""
    for family in KINDS:
        store.run("levels", family, 0)
        store.run("levels", family, 1, **{Tag.KIND: Kind.RUN})
    before = read_study("levels", store.uri)
    assert len(before.runs) == 6
    experiment = store.experiment("levels")
    for kind in (Kind.STUDY, Kind.RESTART):
        other = store.client.create_run(experiment, tags={Tag.KIND: kind})
        store.client.log_metric(other.info.run_id, Metric.NLL, 0.1, step=1)
    after = read_study("levels", store.uri)
    for name in ("runs", "points", "curves", "diagnostics", "evaluations"):
        pd.testing.assert_frame_equal(getattr(before, name), getattr(after, name))
    assert (before.samples, before.notes) == (after.samples, after.notes)


def test_models_that_are_not_the_validated_ones_are_named(store: Store) -> None:
    for rung, (decay, difference) in enumerate([("0.9", None), ("0.9", 0.03), ("0.9", 1e-5)]):
        name = store.run("averaged", "ar", rung)
        store.client.log_param(name, "training.ema_decay", decay)
        if difference is not None:
            store.client.log_metric(name, Metric.EXPORTED_NLL_DIFFERENCE, difference)
    notes = read_study("averaged", store.uri).notes
    names = [f"ar-{budget:.3g}-seed66" for budget in BUDGETS[:3]]
    (differing,) = [note for note in notes if "differs from the recorded one" in note]
    (unchecked,) = [note for note in notes if "was not compared" in note]
    assert [name in differing for name in names] == [False, True, False]
    assert f"{names[1]} (+0.0300)" in differing
    assert [name in unchecked for name in names] == [True, False, False]


def test_a_bound_whose_solver_did_not_converge_is_an_estimate(store: Store) -> None:
    for rung, difference in enumerate([0.02, -0.021, None]):
        store.run("solved", "cola", rung, solver_difference=difference)
    runs = read_study("solved", store.uri).runs
    assert runs["nll_kind"].tolist() == ["bound", "estimate", "estimate"]
    fit = FamilyFit("cola", "cola", "estimate", None, None, ())
    (sentence,) = estimate_sentences(runs, {"cola": fit})
    assert "the NLL of 2 of 3 runs is an estimate" in sentence
    assert "by up to 0.021" in sentence
    assert estimate_sentences(runs[:1], {"cola": fit}) == []
    exact = {"ar": FamilyFit("ar", "ar", "exact", None, None, ())}
    bound = {"llada": FamilyFit("llada", "llada", "bound", None, None, ())}
    (sentence,) = kind_sentences({"cola": fit, **exact, **bound})
    assert sentence.startswith("The NLL of LLaDA is an upper bound, that of AR is exact: a bound ")
    assert kind_sentences({"cola": fit, **exact}) == []


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (("exact", "exact"), ""),
        (("exact", "bound"), "LLaDA by an upper bound of the NLL: at its true NLL it needs less."),
        (("bound", "bound"), "their ratio may be larger or smaller"),
        (("bound", "estimate"), "LLaDA by an estimate of the NLL, on either side"),
    ],
)
def test_what_needs_less_compute_is_said_where_it_follows(
    kinds: tuple[str, str], said: str
) -> None:
    one, other = (
        FamilyFit(family, family, kind, None, None, ())
        for family, kind in zip(("cola", "llada"), kinds, strict=True)
    )
    caveat = bound_caveat(one, other)
    assert said in caveat
    assert bool(caveat) == bool(said)
    assert ("at its true NLL it needs less." in caveat) == (kinds == ("exact", "bound"))


def test_runs_whose_latents_hold_nothing_are_named() -> None:
    empty: dict[str, Any] = dict.fromkeys(LIKELIHOOD_MEASUREMENTS, np.nan)
    row = {"name": "cola-a", "family": "cola", "status": "finished", **empty}
    dead = row | {"rate_nats_per_token": 0.01, "distortion_nats_per_token": 6.21}
    runs = pd.DataFrame([dead, row | {"name": "ar-a", "family": "ar"}])
    (warning,) = latent_warnings(runs, {"unigram": 6.21})
    assert warning.startswith("cola-a: its latents have collapsed")
    assert latent_warnings(runs, {}) == []
    (shown,) = latent_rows(runs)
    assert (shown["rate"], shown["prior"]) == ("0.010", "–")


@pytest.mark.slow
def test_families_are_compared_and_predicted(
    store: Store, report: ReportResult, tmp_path: Path
) -> None:
    frames = read_study("full", store.uri)
    content = page("full", frames, findings_of(frames), spec={}, targets=[1e15])
    figures = [dict.fromkeys(("name", "title", "caption", "alternative", "svg"), "")]
    content |= {"forecasts": [], "figures": figures}
    html = text_of(render("report.html.j2", content))
    # LLaDA's last loss, 5.5 / 8^0.05, is above AR's first one.
    assert "LLaDA against AR: at least 8 times more compute for 4.9" in html
    assert "100% of the refits agree on the order" in html
    folder = report.html.parent
    table = pd.read_csv(folder / "comparisons.csv").set_index(["one", "other"])
    assert table.loc[("ar", "llada"), "bound"] == "at most"
    assert table.loc[("ar", "llada"), "multiplier_high"] == pytest.approx(1 / 8)
    assert not (folder / "multipliers.svg").exists()  # one arrow says no more than its sentence
    assert not (folder / "multipliers.csv").exists()
    assert "by an upper bound of the NLL: at its true NLL it needs less" in html
    assert "126 times beyond the largest measured budget: this rests on the law" in html
    predicted = 4.0 * 1e3**-0.05
    assert f"{predicted:.3f}|" in html
    asked = ["task1", "val/bits_per_byte"]
    metrics = write_metric_report("full", store.uri, tmp_path, metrics=asked, targets=[1e15])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"metrics.html", "metrics.md", "metrics.json", "metrics.svg", "metrics.png",
            "metric_points.csv", "metric_curves.csv"} <= names  # fmt: skip
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert [each["metric"] for each in found["metrics"]] == ["eval/task1/accuracy", asked[1]]
    html = text_of(metrics.html.read_text(encoding="utf-8"))
    gamma = found["metrics"][1]["curves"][0]["parameters"]["gamma"]["estimate"]
    assert f"gamma {gamma:.3g}" in html
    for text in (html, (tmp_path / "metrics.md").read_text(encoding="utf-8")):
        assert "no chance is recorded" in text
        assert all(note in text for note in found["notes"])
    with pytest.raises(SpecError, match="diagnostic/log_snr: neither a range"):
        write_metric_report("full", store.uri, tmp_path, metrics=["diagnostic/log_snr"])


@pytest.mark.slow
def test_families_do_not_share_their_noise(store: Store) -> None:
    away = np.random.default_rng(0).standard_normal((3, 4))
    for family, row in zip(KINDS, away, strict=True):
        for rung, value in enumerate(row):
            key = f"noisy-{family}-{rung}"
            level = 4.0 * float(np.exp(0.01 * value))
            store.run("noisy", family, rung, level=level, **{Tag.RUN_KEY: key})
    points = read_study("noisy", store.uri).points
    final = points[points["is_final"]]
    fits = fit_families(final, final, "executed")
    drawn = [fit.refits.public[:, -1] for fit in fits.values() if fit.refits is not None]
    assert len(drawn) == 3
    correlations = np.corrcoef(drawn)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 0.15


@pytest.mark.slow
def test_several_sizes_a_budget_give_profiles_and_no_cloud(store: Store, tmp_path: Path) -> None:
    for rung in range(3):
        for place, size in enumerate(np.geomspace(1e5, 4e5, 5) * 1.5**rung):
            away = (np.log(size / (2e5 * 1.5**rung))) ** 2
            store.run(
                "sizes", "ar", rung, level=3.0 * (1 + 0.05 * away),
                **{Tag.RUN_KEY: f"{rung}-{place}", Tag.CORE_PARAMETERS: str(round(size))},
            )  # fmt: skip
    result = write_report("sizes", store.uri, tmp_path, spec={})
    fit = result.fits["ar"].fit
    assert fit is not None
    assert len(fit.points) == 3  # the best size of every budget
    html = text_of((tmp_path / "report.html").read_text())
    exponent = np.log(1.5) / np.log(2)
    assert f"grows as C^{exponent:.3f}" in html
    optima = pd.read_csv(tmp_path / "isoflop_optima.csv")
    expected = [2e5 * 1.5**rung for rung in range(3)]
    assert optima["parameters"].tolist() == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_what_cannot_be_reported_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no such experiment; it has: .*full"):
        write_report("absent", store.uri, tmp_path, spec={})
    store.run("unfinished", "ar", 0, **{Tag.STATUS: "running"})
    with pytest.raises(SpecError, match="no run is finished yet"):
        write_report("unfinished", store.uri, tmp_path, spec={})
    store.run("foreign", "ar", 0, **{Tag.SCHEMA_VERSION: "99"})
    with pytest.raises(TrackingError, match="schema version 99") as caught:
        write_report("foreign", store.uri, tmp_path, spec={})
    assert caught.value.exit_code == 5
    with pytest.raises(TrackingError, match="MLflow cannot be read"):
        read_study("full", "http://127.0.0.1:9")  # the discard port: nothing listens


def test_a_lower_rate_after_divergence_is_named(store: Store) -> None:
    runs = read_study("full", store.uri).runs
    assert not any("learning rate" in sentence for sentence in matching_statements(runs))
    runs.loc[0, "retry"] = 1
    (sentence,) = [
        sentence for sentence in matching_statements(runs) if "learning rate" in sentence
    ]
    assert sentence.startswith(
        f"Not matched: the learning rate of {runs.loc[0, 'name']}, which was"
    )


def test_training_settings_that_differ_between_families_are_named(store: Store) -> None:
    for family, rate in (("ar", "0.004"), ("cola", "0.012")):
        run = store.run("rates", family, 0)
        store.client.log_param(run, "training.optimizer.learning_rate", rate)
        store.client.log_param(run, "training.batch_sequences", "8")
    (found,) = [
        sentence
        for sentence in matching_statements(read_study("rates", store.uri).runs)
        if "training.optimizer" in sentence
    ]
    assert found == ("Not matched: training.optimizer.learning_rate (AR 0.004, Cola DLM 0.012).")


def test_runs_matched_in_steps_say_so(store: Store) -> None:
    for family, factor in (("ar", 1), ("cola", 3)):
        tags = {Tag.BUDGET: repr(factor * BUDGETS[0]), Tag.BUDGET_UNIT: "steps"}
        store.run("steps", family, 0, **tags, **{Tag.BUDGET_AMOUNT: "100.0"})
    said = matching_statements(read_study("steps", store.uri).runs)
    assert said[1].startswith("Compute: runs are matched in steps, over all of a family's stages")
    assert any(text.startswith("Not matched: executed training FLOPs (top rung") for text in said)
    assert not any("Budgets differ" in text for text in said)


def test_orders_are_compared_where_all_runs_have_a_digest() -> None:
    short, long = {"1": "a", "2": "b"}, {"1": "a", "2": "b", "4": "c"}
    assert common_order({"x": short, "y": long}) == (2, True)
    assert common_order({"x": short, "y": long | {"2": "z"}}) == (2, False)
    assert common_order({"x": short, "y": {}}) == (0, False)
    assert common_order({}) == (0, False)
