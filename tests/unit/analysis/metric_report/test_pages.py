"""Eight tasks and their average against compute, three families, from known sigmoids."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from analysis.metric_report.content import as_json, curve_rows, note_rows, pair_rows
from analysis.metric_report.measurements import measured
from analysis.metric_report.plots import small_multiples
from analysis.metric_report.quantities import quantities
from analysis.metric_report.report import fitted_panels, sentences
from analysis.plotting.variants import styles_of, variants_of
from analysis.report.runs import StudyFrames
from cola.records import FEW_SHOT_TASKS, REFERENCE_LINES, Metric

TASKS = FEW_SHOT_TASKS[:8]
ITEMS = 2000
SLOWER = {"ar": 1.0, "llada": 5.0, "cola": 20.0}  # times AR's compute for the same accuracy
BUDGETS = np.geomspace(1e18, 1e21, 5)
B, HALF = 0.5, 1e20


@pytest.fixture(autouse=True)
def few_refits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for rough intervals, in a fifth of the time."""
    monkeypatch.setattr("analysis.metric_report.curves.SAMPLES", 200)
    monkeypatch.setattr("analysis.report.family_fits.SAMPLES", 200)


def truth(task: int, compute: float, family: str) -> float:
    chance = 0.25 if task % 2 else 0.0
    return float(chance + (1 - chance) / (1 + (compute / SLOWER[family] / HALF) ** -B))


@pytest.fixture(scope="module")
def frames() -> StudyFrames:
    generator = np.random.default_rng(3)
    runs, metrics = [], {}
    for family in SLOWER:
        for rung, budget in enumerate(BUDGETS):
            run = f"{family}-{rung}"
            runs.append(
                {"run_id": run, "name": run, "family": family, "variant": family, "rung": rung,
                 "budget": budget, "seed": 66, "status": "finished", "nll_kind": "exact",
                 "nll": 3.0 - 0.1 * rung, "train_flops_executed": budget, "tokens": 1e9,
                 "core_parameters": 10**6 + rung, "compute": "executed", "is_final": True,
                 **{f"reference_{line}": np.nan for line in REFERENCE_LINES}}
            )  # fmt: skip
            found = {Metric.NLL: 3.0 - 0.1 * rung, "diagnostic/log_snr": 4.0}
            for number, task in enumerate(TASKS):
                share = generator.binomial(ITEMS, truth(number, budget, family)) / ITEMS
                found |= {Metric.accuracy(task): share, Metric.task(task, "items"): ITEMS}
                if number % 2:
                    found[Metric.task(task, "chance")] = 0.25
            metrics[run] = found
    table = pd.DataFrame(runs)
    return StudyFrames(table, table, pd.DataFrame(), metrics=metrics)


def test_the_page_of_eight_tasks_finds_what_made_it(frames: StudyFrames) -> None:
    panels, notes = fitted_panels(frames, ["few-shot"])
    assert notes == []
    assert [each.found.quantity.title for each in panels] == [*TASKS, "average of 8 tasks"]
    held = []
    for panel in panels[:-1]:
        found = as_json(panel, [1e22])
        assert [curve["law"] for curve in found["curves"]] == ["sigmoid"] * 3
        held += [c["parameters"]["exponent"]["interval"] for c in found["curves"]]
        for pair in found["comparisons"]:
            times = SLOWER[pair["one"]] / SLOWER[pair["other"]]
            multiplier = pair["multiplier"]
            assert multiplier["value"] == pytest.approx(times, rel=0.5)
            held.append([multiplier["low"] / times * B, multiplier["high"] / times * B])
    assert np.mean([low <= B <= high for low, high in held]) >= 0.9
    mean = as_json(panels[-1], [1e22])
    assert mean["chance"] == pytest.approx(0.125)
    assert mean["mean_of"] == [Metric.accuracy(task) for task in TASKS]
    assert len(curve_rows([mean])) == len(pair_rows([mean])) == 3
    assert len(panels[-1].found.rows) == 15
    figure = small_multiples(panels, styles_of(variants_of(frames.runs)), "executed")
    shown = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert shown[-1] == "average of 8 tasks, %"
    assert len(shown) == 9


def test_everything_in_the_json_is_in_the_text(frames: StudyFrames) -> None:
    (panel,), _ = fitted_panels(frames, ["mmlu"])
    found = as_json(panel, [1e22])
    row, *_ = curve_rows([found])
    b = found["curves"][0]["parameters"]["exponent"]
    low, high = b["interval"]
    assert (
        f"exponent b of the odds {b['estimate']:.3g} ({low:.3g} to {high:.3g})" in row["parameters"]
    )
    assert row["chance"] == "25.0"
    said = sentences({"metrics": [found]})
    assert said[0].startswith("mmlu: LLaDA against AR: ")
    assert "times more compute for " in said[0]
    assert "% (95% interval" in said[0]
    assert note_rows([found], ["x"])[0] == "x"
    value = found["curves"][0]["predictions"][0]["value"]
    assert value["interval"][0] < value["estimate"] < value["interval"][1] < 1


def test_runs_that_lack_a_task_are_named_and_left_out_of_the_average(frames: StudyFrames) -> None:
    fewer = dict(frames.metrics)
    fewer["ar-0"] = {k: v for k, v in fewer["ar-0"].items() if not k.startswith("eval/race/")}
    fewer["ar-1"] = fewer["ar-1"] | {Metric.accuracy("race"): math.nan}
    changed = StudyFrames(frames.runs, frames.points, frames.curves, metrics=fewer)
    panels, _ = fitted_panels(changed, ["few-shot"])
    race, average = panels[6].found, panels[-1].found
    assert race.quantity.title == "race"
    for found in (race, average):
        assert len(found.rows) == 13
        assert any("2 of 15 finished runs" in note and "ar-0, ar-1" in note for note in found.notes)


def test_the_exact_text_of_an_option_is_not_guessed(frames: StudyFrames) -> None:
    """Where answers are also read as choices, chance is that of the choice alone."""
    with_choices = {
        run: of
        | {Metric.task("siqa", "choice_accuracy"): 0.5, Metric.accuracy("siqa"): 0.1}
        | {Metric.task("siqa", "chance"): 0.25}
        for run, of in frames.metrics.items()
    }
    changed = StudyFrames(frames.runs, frames.points, frames.curves, metrics=with_choices)
    names = [Metric.accuracy("siqa"), Metric.task("siqa", "choice_accuracy")]
    exact, choice = (
        measured(changed, quantity) for quantity in quantities(names, with_choices["ar-0"])[0]
    )
    assert (exact.chance, choice.chance) == (None, 0.25)


def test_a_family_at_chance_is_drawn_and_not_fitted(frames: StudyFrames) -> None:
    flat = {
        run: of | ({Metric.accuracy("mmlu"): 0.25} if run.startswith("cola") else {})
        for run, of in frames.metrics.items()
    }
    changed = StudyFrames(frames.runs, frames.points, frames.curves, metrics=flat)
    (panel,), _ = fitted_panels(changed, ["mmlu"])
    found = as_json(panel, [])
    assert panel.curves["cola"].curve is None
    assert len(panel.found.rows) == 15
    assert [(p["one"], p["other"]) for p in found["comparisons"]] == [("ar", "llada")]
    (note,) = [row for row in note_rows([found], []) if "Cola DLM" in row]
    assert note == "mmlu, Cola DLM: no curve: no run is better than chance (0.25)"


def test_losses_keep_the_laws_of_the_report(frames: StudyFrames) -> None:
    panels, _ = fitted_panels(frames, ["val/nll_nats_per_token"])
    found = as_json(panels[0], [1e22])
    assert {curve["law"] for curve in found["curves"]} <= {"compute", "compute-power", "broken"}
    assert found["range"] is None
    bands = panels[0].curves["ar"].band
    assert bands is not None
    assert all(a >= b for a, b in pairwise(bands["value"]))


def test_the_average_has_the_error_of_independent_tasks(frames: StudyFrames) -> None:
    (*parts, average), _ = quantities(["few-shot"], frames.metrics["ar-0"])
    with_errors = {
        run: of | {f"eval/{task}/accuracy_standard_error": 0.01 for task in TASKS}
        for run, of in frames.metrics.items()
    }
    changed = StudyFrames(frames.runs, frames.points, frames.curves, metrics=with_errors)
    found = measured(changed, average)
    assert found.rows["error"].tolist() == pytest.approx([0.01 / 8**0.5] * 15)
    assert found.rows["value"].iloc[0] == pytest.approx(
        np.mean([with_errors["ar-0"][part.key] for part in parts])
    )
