"""Forecasts of a study: registered before a run, scored after it, and what makes one not count."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.cli import app
from analysis.study_forecasts.scores import Score
from analysis.study_forecasts.text import score_sentence, verdict
from cola.errors import ColaError, SpecError, StorageError
from cola.records import Tag
from tests.unit.analysis.printed import read
from tests.unit.analysis.store import Store

TOP = 8e12  # the budget of rung 3
AT_TOP = 4.0 * (0.99 * 8) ** -0.05  # the loss that `Store` gives an AR run there


@dataclass(frozen=True)
class Study:
    """A study of one AR curve in a store that several share."""

    store: Store
    name: str

    def run(self, rung: int, *, after: float = 0.0, noise: float = 0.0, **changes: str) -> str:
        """A finished run that ends some seconds from now."""
        run = self.store.run(self.name, "ar", rung, level=4.0 * (1 + noise), **changes)
        self.end(run, after)
        return run

    def end(self, run: str, after: float) -> None:
        """Set the time of a run's end, seconds from now."""
        end_time = int((time.time() + after) * 1000)
        self.store.client.set_terminated(run, "FINISHED", end_time=end_time)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def three(shared: Store, request: pytest.FixtureRequest) -> Study:
    """Finished runs at 1e12, 2e12 and 4e12 FLOPs."""
    study = Study(shared, request.node.originalname)
    if shared.client.get_experiment_by_name(study.name) is None:
        for rung, noise in enumerate((0.001, -0.002, 0.001)):
            study.run(rung, noise=noise)
    return study


def forecast(study: Study, *arguments: str) -> Any:
    place = ["--output", str(study.store.folder), "--tracking-uri", study.store.uri]
    command = ["forecast", arguments[0], study.name, *place, *arguments[1:]]
    found = CliRunner().invoke(app, command)
    if isinstance(found.exception, ColaError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return read("forecast", found.stdout) if "--json" in arguments else found.stdout


def record(study: Study) -> Path:
    return study.store.folder / "studies" / study.name / "forecasts.jsonl"


def scored(study: Study) -> dict[str, Any]:
    (score,) = forecast(study, "score", "--json")["scores"]
    return dict(score)


def test_a_forecast_is_registered_before_its_run_and_scored_after_it(three: Study) -> None:
    (line,) = forecast(three, "register", "--target", "c=8e12", "--json")["forecasts"]
    assert line["value"] == pytest.approx(4.0 * 8**-0.05, rel=0.01)
    assert len(line["rests_on"]) == 3
    assert "registered already" in forecast(three, "register", "--target", "8e12")
    assert scored(three)["problem"] == "its run is not finished yet"
    three.run(3, after=60)
    score = scored(three)
    assert score["counts"]
    assert score["measured"] == pytest.approx(AT_TOP)
    assert score["error"] == pytest.approx(AT_TOP - line["value"])
    low, high = score["new_run_interval_95"]
    assert score["inside_new_run_interval"] == (low <= AT_TOP <= high)
    assert score["error_in_band_widths"] == pytest.approx(score["error"] / (high - low))
    text = forecast(three, "score")
    assert "of 1 scored forecasts hold what was measured" in text
    with pytest.raises(SpecError, match=r"ar-8e\+12-seed66 finished already.*--hold-out top"):
        forecast(three, "register", "--target", "c=8e12")


def test_late_edited_and_changed_forecasts_do_not_count(three: Study) -> None:
    forecast(three, "register", "--target", "c=8e12")
    line = record(three).read_text()
    top = three.run(3, after=-3600)
    assert "registered after ar-8e+12-seed66 had finished" in scored(three)["problem"]
    three.end(top, 60)
    record(three).write_text(line.replace('"law": "compute-power"', '"law": "compute"'))
    assert "edited" in scored(three)["problem"]
    record(three).write_text(line)
    assert scored(three)["problem"] is None
    rerun = three.run(1, noise=0.02)  # the same key: the latest finished run counts
    assert "other numbers: ar-2e+12-seed66" in scored(three)["problem"]
    three.store.client.delete_run(rerun)
    three.run(1, **{Tag.RUN_KEY: "a further seed"})
    found = scored(three)
    assert found["counts"]
    assert "1 further run of smaller budgets finished since" in found["notes"]


def test_no_score_counts_while_runs_at_the_target_train(three: Study) -> None:
    forecast(three, "register", "--target", "c=8e12")
    three.run(3, after=60)
    sizes = {Tag.RUN_KEY: "another size", Tag.CORE_PARAMETERS: "400000"}
    other = three.run(3, **sizes, **{Tag.STATUS: "running"})
    text = "1 of its 2 runs has not ended (ar-8e+12-seed66 is running), so it does not count yet"
    assert scored(three)["problem"] == text
    for state in ("interrupted", "failed"):
        three.store.client.set_tag(other, Tag.STATUS, state)
        assert scored(three)["counts"] == (state == "failed")


def test_scores_are_worded_in_the_unit_of_the_metric() -> None:
    loss = Score(
        "ar", "AR", "val/nll_nats_per_token", "nats a token", 8e12, "compute", 4.0, (3.9, 4.1),
        (3.0, 5.0), 2.0, 3, None, measured=4.006,
    )  # fmt: skip
    text = "inside, error +0.0060 nats a token, 0.003 of the interval's width"
    assert verdict(loss) == text
    assert verdict(replace(loss, measured=6.0)).startswith("outside, error +2.0000 nats a token")
    share = replace(loss, unit="%", value=0.42, of_new_run=(0.3, 0.5), measured=0.4)
    assert "forecast 42.00 % (a new run 30.00 to 50.00" in score_sentence(share)
    assert "measured 40.00: inside, error -2.00 %" in score_sentence(share)
    brier = replace(share, unit="Brier, times 100")
    assert "measured 40.000: inside, error -2.000 Brier, times 100" in score_sentence(brier)


def test_damaged_lines_are_counted_and_foreign_ones_refused(three: Study) -> None:
    forecast(three, "register", "--target", "c=8e12")
    line = record(three).read_text()
    record(three).write_text(f"{line}cut off\n")
    assert forecast(three, "score", "--json")["damaged_lines"] == 1
    for strange in ('{"curve": "ar"}', line.replace('"format": 1', '"format": 2').strip()):
        record(three).write_text(f"{strange}\n")
        with pytest.raises(StorageError, match="holds a line that is no forecast of a study"):
            forecast(three, "score")


def test_a_budget_that_is_held_out_is_scored_and_not_called_registered(three: Study) -> None:
    three.run(3)
    (score,) = forecast(three, "score", "--hold-out", "top", "--json")["scores"]
    assert score["kind"] == "held out, not registered"
    assert score["forecast"] == pytest.approx(4.0 * 8**-0.05, rel=0.01)
    assert score["measured"] == pytest.approx(AT_TOP)
    assert "held out, not registered" in forecast(three, "score", "--hold-out", "1")
    with pytest.raises(SpecError, match=r"compute-power needs at least 3 different"):
        forecast(three, "score", "--hold-out", "2")
    with pytest.raises(SpecError, match="no budget is left of its 4 finished ones"):
        forecast(three, "score", "--hold-out", "9")
    assert not record(three).exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["register"], "--target: is missing"),
        (["register", "--target", "n=1e6,d=1e6"], "are at a compute"),
        (["register", "--target", "c=-1"], "--target c=-1: takes positive"),
        (["register", "--target", "much"], "--target c=much"),
        (["register", "--target", "c=1e11"], "no finished run has a budget below"),
        (["register", "--target", "c=8e12", "--family", "gpt"], "--family gpt: .* it has ar"),
        (["register", "--target", "c=8e12", "--law", "chinchilla"], "--law chinchilla: .* give"),
        (["register", "--target", "c=8e12", "--metric", "val/none"], "no finished run has it"),
        (["score"], "holds no forecast; register one"),
        (["score", "--hold-out", "0"], "--hold-out 0: give top"),
        (["score", "--law", "compute"], "go with --hold-out"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(
    three: Study, arguments: list[str], problem: str
) -> None:
    with pytest.raises(SpecError, match=problem):
        forecast(three, *arguments)


def test_the_report_shows_registered_forecasts(three: Study) -> None:
    forecast(three, "register", "--target", "c=8e12")
    place = ["--output", str(three.store.folder), "--tracking-uri", three.store.uri]
    found = CliRunner().invoke(app, ["report", three.name, *place])
    assert found.exit_code == 0, found.output
    assert "its run is not finished yet" in found.stdout
    page = (record(three).parent / "report/report.md").read_text()
    assert "## Registered forecasts" in page
    assert "AR at 8e+12 FLOPs (registered 20" in page
