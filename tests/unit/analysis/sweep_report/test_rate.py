"""A rate sweep's answer on synthetic trials whose best rates are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.plotting.glossary import mathematics
from analysis.sweep_report.data import Goal, SweepFrames, read_sweep
from analysis.sweep_report.rate_answers import RateAnswer, answer_rate, rate_sentences
from analysis.sweep_report.rate_forecast import register_forecast
from analysis.sweep_report.rate_plots import rate_figures
from analysis.sweep_report.rate_profiles import RateAnalysis, analyse, rate_points
from analysis.sweep_report.report import write_sweep_report
from cola.errors import StorageError
from cola.spec import load_yaml, with_values
from cola.study import StudySpec
from tests.layout import ROOT
from tests.pages import text_of
from tests.unit.analysis.sweep_report.rate_sweep import (
    ACCURACY,
    BUDGETS,
    NLL,
    best_rate,
    write_rate_sweep,
)

NEXT = 4e12
DEMO = ROOT / "orchestration/studies/demo.yaml"


def analysed(folder: Path) -> RateAnalysis:
    return analyse(rate_points(read_sweep(folder).arms[0]))


def answered(folder: Path) -> tuple[RateAnswer, str]:
    frames: SweepFrames = read_sweep(folder)
    answer = answer_rate(folder, frames.arms[0], [Goal(NLL, 1), Goal(ACCURACY, -1)])
    return answer, "\n".join(rate_sentences(answer))


def test_the_exponent_of_the_best_rate_is_covered_by_its_interval(tmp_path: Path) -> None:
    held = []
    for seed in range(5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        analysis = analysed(write_rate_sweep(folder, exponent=0.4, noise=0.02, seed=seed))
        low, high = analysis.laws["rate"].interval
        assert high - low < 0.3
        held.append(low <= 0.4 <= high)
        for best in analysis.good:
            assert best.values["rate"] == pytest.approx(best_rate(best.budget, 0.4), rel=0.25)
            parts = best.values["rate"] + best.values["distortion"]
            assert parts == pytest.approx(best.values["bound"])
    assert sum(held) >= 4  # of 95% intervals 3 or fewer have a chance of 2%


def test_a_best_rate_that_does_not_move_is_not_said_to_grow(tmp_path: Path) -> None:
    folder = write_rate_sweep(tmp_path, exponent=0.0, noise=0.05, seed=3)
    assert (
        "The data do not decide whether the best rate R* moves with compute" in answered(folder)[1]
    )


def test_a_profile_without_a_minimum_inside_is_refused_by_name(tmp_path: Path) -> None:
    """At rates of 1.6 and more the smaller budgets have only the right arm."""
    folder = write_rate_sweep(tmp_path, dims=(8, 10, 12, 16, 20), exponent=2.0, noise=0.002)
    answer, text = answered(folder)
    assert [best.trouble is None for best in answer.analysis.best] == [False, False, False, True]
    assert "widen it towards lower rates than 1.6. The budget enters no law." in text
    assert answer.analysis.laws == {}
    assert "1 of 4 budgets have a minimum inside their profile, and that takes two" in text
    assert answer.next is not None
    assert answer.next.why is not None


def test_a_minimum_whose_interval_reaches_the_edge_is_none(tmp_path: Path) -> None:
    """At the smallest budget R* is 0.4 nats, next to the lowest rate of 0.38."""
    folder = write_rate_sweep(tmp_path, exponent=0.5, noise=0.03, scale=0.19)
    answer, text = answered(folder)
    assert [best.trouble is None for best in answer.analysis.best] == [False, True, True, True]
    assert "reaches the profile's edge; widen it towards lower rates than 0.38" in text
    assert "over 3 budgets" in text
    assert answer.analysis.refits is not None
    assert list(answer.analysis.refits.compute) == list(BUDGETS[1:])


def test_too_few_rates_are_no_profile(tmp_path: Path) -> None:
    _, text = answered(write_rate_sweep(tmp_path, dims=(2, 4, 8)))
    assert "it has 3 of the 4 different rates that it takes; give it at least 4" in text


def test_silent_points_are_named_and_in_no_profile(tmp_path: Path) -> None:
    folder = write_rate_sweep(tmp_path, dims=(2, 3, 4, 6, 8, 12), scale=0.02)
    points = rate_points(read_sweep(folder).arms[0])
    assert points.silent["rate"].max() < 0.05 <= points.runs["rate"].min()
    _, text = answered(folder)
    assert "(a rate below 0.05 nats a token), in no profile: latent_dim 2" in text
    assert "(rate 0.040)" in text


def test_of_learning_rates_the_best_counts_and_an_edge_is_named(tmp_path: Path) -> None:
    folder = write_rate_sweep(tmp_path, learning_rates=(0.005, 0.01))
    points = rate_points(read_sweep(folder).arms[0])
    assert points.runs["point"].str.contains("learning_rate 0.01").all()
    assert any("edge of those tried at 24 of 24 points" in note for note in points.notes)


def test_without_distortions_nothing_is_said_about_rates(tmp_path: Path) -> None:
    folder = write_rate_sweep(tmp_path)
    log = folder / "trials.jsonl"
    log.write_text(log.read_text().replace("val/reconstruction", "val/other"))
    answer, text = answered(folder)
    assert "rates are not known" in text
    assert not list(rate_figures(answer))


def test_a_forecast_is_registered_before_its_budget_and_scored(tmp_path: Path) -> None:
    write_rate_sweep(tmp_path)
    assert "at 4e+12 FLOPs expected are a best rate of 1.3" in register_forecast(tmp_path, "", NEXT)
    assert "registered already" in register_forecast(tmp_path, "", NEXT)
    assert "the budget is not trained yet" in answered(tmp_path)[1]
    write_rate_sweep(tmp_path, budgets=(NEXT,), start=3e9, first=100, seed=5)
    answer, text = answered(tmp_path)
    (score,) = answer.scores
    assert score.problem is None
    assert score.inside("rate")
    assert score.measured is not None
    assert f"measured {score.measured.values['rate']:.3f}: inside" in text


def test_a_forecast_that_was_written_late_edited_or_whose_trials_changed_does_not_count(
    tmp_path: Path,
) -> None:
    write_rate_sweep(tmp_path)
    register_forecast(tmp_path, "", NEXT)
    path, log = tmp_path / "forecasts.jsonl", tmp_path / "trials.jsonl"
    line, trials = path.read_text(), log.read_text()
    path.write_text(line.replace('{"estimate": 1.3', '{"estimate": 1.4'))
    assert "was edited" in answered(tmp_path)[1]
    path.write_text(line)
    write_rate_sweep(tmp_path, seed=1, budgets=(BUDGETS[0],), first=200)
    assert "are other ones by now" in answered(tmp_path)[1]
    log.write_text(trials)
    write_rate_sweep(tmp_path, budgets=(NEXT,), start=1000.0, first=100)
    assert "after a trial of that budget had begun" in answered(tmp_path)[1]
    path.write_text('{"arm": "", "budget": "much"}\n')
    with pytest.raises(StorageError, match=r"forecasts.jsonl: holds a line that is no forecast"):
        answered(tmp_path)
    path.write_text(f"{line}cut off\n")
    assert "1 lines of forecasts.jsonl are no records" in answered(tmp_path)[1]


def test_without_minima_the_forecast_says_that_there_is_none(tmp_path: Path) -> None:
    write_rate_sweep(tmp_path, dims=(2, 4, 8))
    assert "no forecast at 4e+12 FLOPs: 0 of 4 smaller" in register_forecast(tmp_path, "", NEXT)
    assert "none could be made" in answered(tmp_path)[1]


@pytest.mark.parametrize(
    ("generation", "sentence"),
    [
        (1.6, "is best at a higher rate than the bound"),
        (0.6, "is best at a lower rate than the bound"),
        (1.0, "The data do not decide whether generation"),
    ],
)
def test_generation_is_compared_with_the_bound_either_way(
    tmp_path: Path, generation: float, sentence: str
) -> None:
    folder = write_rate_sweep(
        tmp_path, generation=generation, noise=0.004, dims=(1, 2, 3, 4, 6, 8, 12, 16)
    )
    answer, text = answered(folder)
    assert sentence in text
    (found,) = answer.generation
    assert found.mean == pytest.approx(generation, rel=0.15)


def test_the_best_rates_are_a_rule_that_a_study_takes(tmp_path: Path) -> None:
    """The rate is 0.2 nats a dimension, so the best dimension is R* / 0.2."""
    answer, text = answered(write_rate_sweep(tmp_path, noise=0.002))
    for budget, value in answer.rule.points:
        assert value == pytest.approx(best_rate(budget, 0.4) / 0.2, rel=0.1)
    assert "As a rule for studies" in text
    values = with_values(load_yaml(DEMO), answer.rule.as_settings())
    rule = StudySpec.parse(values).rules_of("cola").latent
    assert rule is not None
    assert rule.latent_dim is not None
    assert rule.latent_dim.value(1e6, 1e12) == pytest.approx(4.0, rel=0.1)


def test_trials_without_finite_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    """JSON has no NaN: such a metric is missing."""
    folder = write_rate_sweep(tmp_path)
    log = folder / "trials.jsonl"
    lines = log.read_text().splitlines()
    without = [line.replace(f'"{NLL}"', '"val/other"') for line in lines]
    log.write_text("\n".join([*without[:4], *lines[4:], ""]))
    answer, text = answered(folder)
    assert "2 finished trials have no finite bound or distortion" in text
    assert len(answer.analysis.runs) == len(lines) // 2 - 2
    log.write_text("\n".join([*without[:2], ""]))
    assert "rates are not known" in answered(folder)[1]


@pytest.mark.slow
def test_json_and_page_have_all_sentences(tmp_path: Path) -> None:
    write_rate_sweep(tmp_path, dims=(2, 3, 4, 6, 8))
    page = write_sweep_report(tmp_path).read_text()
    values = json.loads((tmp_path / "report/rate.json").read_text())
    (arm,) = values["arms"]
    for sentence in arm["sentences"]:
        assert text_of(mathematics(sentence)) in text_of(page)
    assert all(f'id="{name}"' in page for name in ("frontier", "profiles", "best-rate"))
    assert [row["budget"] for row in arm["budgets"]] == list(BUDGETS)
    assert np.isfinite(arm["laws"]["rate"]["exponent_interval"]).all()
