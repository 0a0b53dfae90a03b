"""A sweep's page on synthetic trials whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from analysis.sweep_report.answers import (
    best_sentence,
    estimate_drift,
    headline,
    mean_error,
    optimum,
    pareto_front,
    seed_noise,
)
from analysis.sweep_report.courses import course_plot, descent
from analysis.sweep_report.data import Goal, read_sweep, seeds_table
from analysis.sweep_report.figures import goal_figures
from analysis.sweep_report.importance import importance
from analysis.sweep_report.plots import response
from analysis.sweep_report.report import answers, trial_table, write_sweep_report
from cola.records import (
    PointExcluded,
    RunResult,
    StopCode,
    TrialFinished,
    TrialRequested,
    TrialSegment,
    TrialState,
)
from tests.pages import text_of

LOC, DIM, RATE = "objective.loc", "model.dim", "training.rate"
NLL, RIGHT = "val/nll_nats_per_token", "continuation/token_accuracy"
SEEDS = (1, 2, 3)
Metric = Callable[[dict[str, Any]], dict[str, float]]


def write_sweep(
    folder: Path,
    points: list[dict[str, Any]],
    metrics: Metric,
    noise: float,
    answer: dict[str, Any] | None = None,
    diverged: dict[int, str] | None = None,
    stop_code: StopCode | None = None,
    seeds: tuple[int, ...] = SEEDS,
) -> Path:
    """A sweep's folder as its driver leaves it; a seed shifts all points alike."""
    draws = np.random.default_rng(0)
    goals = [{"name": NLL, "direction": "minimize"}, {"name": RIGHT, "direction": "maximize"}]
    spec = {
        "name": "synthetic", "question": "What is best?", "description": "", "arms": {},
        "space": dict.fromkeys(points[0]), "metrics": goals, "answer": answer or {"kind": "best"},
        "budget": {"trials": 9}, "algorithm": {"kind": "grid"}, "scheduler": {"kind": "none"},
    }  # fmt: skip
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"sweep": spec, "study": {}}))
    lines = []
    for number, point in enumerate(points, start=1):
        key = f"k{number}"
        lines.append(TrialRequested(trial=number, arm="", point=point, identity=key, run_keys=[key],
                                time=0.0))  # fmt: skip
        reason = (diverged or {}).get(number)
        runs = []
        for seed in seeds:
            values = {
                name: value + seed + noise * draws.standard_normal()
                for name, value in metrics(point).items()
            }
            runs.append(RunResult(name=f"{key}-{seed}", run_key=key, family="cola", seed=seed,
                                  state="diverged" if reason else "finished", reason=reason,
                                  reused=False, metrics={} if reason else values))  # fmt: skip
        means = {name: float(np.mean([r.metrics[name] for r in runs])) for name in runs[0].metrics}
        lines.append(TrialFinished(
            trial=number, state="diverged" if reason else "finished", reason=reason,
            stop_code=stop_code if reason else None, metrics=means, runs=runs,
            wall_seconds=20.0, working_seconds=12.0, training_seconds=10.0, flops=1e9,
            accelerator_hours=0.1, time=1.0,
        ))  # fmt: skip
    lines.append(PointExcluded(arm="", point={}, reason="no whole <blocks>", time=2.0))
    text = "".join(line.model_dump_json() + "\n" for line in lines)
    (folder / "trials.jsonl").write_text(text)
    return folder


def bowl(slope: float) -> Metric:
    """The best loc is 1 + slope * log2(dim / 4); accuracy agrees with the loss."""

    def metrics(point: dict[str, Any]) -> dict[str, float]:
        best = 1.0 + slope * np.log2(point[DIM] / 4)
        loss = 5.0 + (point[LOC] - best) ** 2
        return {NLL: float(loss), RIGHT: float(-loss)}

    return metrics


GRID = [{DIM: dim, LOC: loc} for dim in (4, 16, 64) for loc in (0.0, 0.75, 1.5, 2.25, 3.0)]


@pytest.mark.slow
def test_a_drift_is_found_with_an_interval_that_covers_it(tmp_path: Path) -> None:
    """0.25 a doubling: 1.0, 1.5 and 2.0 at 4, 16 and 64."""
    answer = {"kind": "drift", "key": LOC, "over": DIM, "log": True}
    folder = write_sweep(tmp_path, GRID, bowl(0.25), 0.02, answer)
    frames = read_sweep(folder)
    drift = estimate_drift(frames.arms[0], frames.goals[0], LOC, over=DIM, log=True)
    assert drift is not None
    assert drift.low <= 0.25 / np.log(2) <= drift.high
    assert drift.table["optimum"].to_list() == pytest.approx([1.0, 1.5, 2.0], abs=0.1)
    html = write_sweep_report(folder).read_text()
    assert "The best loc grows with dim: +0.2" in html


@pytest.mark.parametrize(
    ("slope", "said"),
    [
        (0.5 * np.log(2), "the data do not decide whether there is a drift beyond it: "),
        (1.0, "; beyond it the drift is +0.6"),
    ],
)
def test_what_a_random_code_gives_is_taken_from_a_drift(
    tmp_path: Path, slope: float, said: str
) -> None:
    answer = {"kind": "drift", "key": LOC, "over": DIM, "log": True, "control": "random_code"}
    wide = [{DIM: dim, LOC: loc} for dim in (4, 8, 16) for loc in (0.0, 1.0, 2.0, 3.0, 4.0)]
    folder = write_sweep(tmp_path, wide, bowl(slope), 0.02, answer)
    sentences = " ".join(answers(read_sweep(folder)))
    assert "A random local code drifts by +0.35 a doubling of dim, (ln dim) / 2" in sentences
    assert said in sentences


def test_a_random_code_of_more_dimensions_is_read_at_more_noise() -> None:
    """256 random words in 16 and in 256 dimensions: the noise at which half of them is told."""
    draws = np.random.default_rng(0)
    halves = []
    for width in (16, 256):
        words = draws.standard_normal((256, width))
        chosen = draws.integers(256, size=400)
        noise = draws.standard_normal((400, width))
        logits = np.linspace(-2, 4, 61)
        right = []
        for t in 1 / (1 + np.exp(-logits)):
            scores = ((1 - t) * words[chosen] + t * noise) @ words.T - (1 - t) / 2 * (words**2).sum(
                1
            )
            right.append((scores.argmax(1) == chosen).mean())
        halves.append(logits[int(np.argmin(np.abs(np.array(right) - 0.5)))])
    assert halves[1] - halves[0] == pytest.approx(0.5 * np.log(16), abs=0.25)


@pytest.mark.parametrize(("slope", "noise"), [(0.0, 0.05), (0.02, 0.5)])
def test_where_the_data_do_not_decide_the_page_says_so(
    tmp_path: Path, slope: float, noise: float
) -> None:
    answer = {"kind": "drift", "key": LOC, "over": DIM, "log": True}
    folder = write_sweep(tmp_path, GRID, bowl(slope), noise, answer)
    sentences = " ".join(answers(read_sweep(folder)))
    assert "the data do not decide whether the best loc moves with dim" in sentences.lower()


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    answer = {"kind": "drift", "key": LOC, "over": DIM, "log": True}
    folder = write_sweep(tmp_path, GRID, bowl(0.5), 0.0, answer, seeds=(1,))
    sentences = " ".join(answers(read_sweep(folder)))
    assert "that takes two seeds" in sentences
    assert "with one seed a point the data do not decide" in sentences


def test_an_optimum_at_the_edge_is_told(tmp_path: Path) -> None:
    answer = {"kind": "drift", "key": LOC, "over": DIM, "log": True}
    folder = write_sweep(tmp_path, GRID, bowl(1.0), 0.01, answer)
    sentences = " ".join(answers(read_sweep(folder)))
    assert "optima lie at the edge of what was tried" in sentences


def test_a_point_is_best_only_beyond_the_seeds_noise(tmp_path: Path) -> None:
    rates = [{RATE: rate} for rate in (1.0, 2.0, 3.0, 4.0)]
    clear = write_sweep(tmp_path, rates, lambda p: {NLL: p[RATE], RIGHT: 0.0}, 0.01)
    frames = read_sweep(clear)
    assert "better than every other point" in best_sentence(frames.arms[0], frames.goals[0])
    vague = write_sweep(tmp_path, rates, lambda p: {NLL: 1e-3 * p[RATE], RIGHT: 0.0}, 0.5)
    frames = read_sweep(vague)
    assert "the data do not decide" in best_sentence(frames.arms[0], frames.goals[0])


def test_points_inside_the_solver_s_error_are_not_ranked(tmp_path: Path) -> None:
    moved = "val/solver_difference_nats_per_token"
    rates = [{RATE: rate} for rate in (1.0, 1.05, 2.0)]

    def measured(point: dict[str, Any]) -> dict[str, float]:
        error = -0.1 if point[RATE] == 1.05 else 0.01
        return {NLL: point[RATE], RIGHT: 0.0, moved: error - 2.0}  # a run adds its seed, 1 to 3

    frames = read_sweep(write_sweep(tmp_path, rates, measured, 0.0))
    found = best_sentence(frames.arms[0], frames.goals[0])
    assert "best by validation NLL is rate 1 " in found
    assert "it is not ranked against rate 1.05: twice as many steps" in found
    assert "rate 2" not in found
    assert "not ranked" not in best_sentence(frames.arms[0], frames.goals[1])


def test_a_metric_that_nothing_moves_has_no_best_point(tmp_path: Path) -> None:
    rates = [{RATE: rate} for rate in (1.0, 2.0, 3.0)]
    frames = read_sweep(write_sweep(tmp_path, rates, lambda p: {NLL: 5.0, RIGHT: p[RATE]}, 0.0))
    found = best_sentence(frames.arms[0], frames.goals[0])
    assert "is the same at every point (7.0000)" in found
    assert "best by" not in found


@pytest.mark.slow
def test_quality_stands_against_the_cost_of_generation(tmp_path: Path) -> None:
    cost = "continuation/function_evaluations_per_token"
    steps = [{RATE: steps} for steps in (1.0, 4.0, 16.0)]
    folder = write_sweep(tmp_path, steps, lambda p: {NLL: 5.0, RIGHT: p[RATE], cost: p[RATE]}, 0.0)
    html = text_of(write_sweep_report(folder).read_text())
    assert html.count("against the cost of generation") == 1  # the accuracy's, not the loss's
    assert (folder / "report" / "cost-1.svg").exists()


def test_the_seeds_noise_leaves_out_what_all_points_share(tmp_path: Path) -> None:
    """Seeds differ by 1 from each other; the noise beside that is 0.05."""
    frames = read_sweep(write_sweep(tmp_path, GRID, bowl(0.0), 0.05))
    noise = seed_noise(seeds_table(frames.arms[0], frames.goals[0]))
    assert noise is not None
    assert noise.freedom == 14 * 2
    assert noise.deviation == pytest.approx(0.05, rel=0.4)


def test_what_matters_is_told_from_what_does_not(tmp_path: Path) -> None:
    points = [{RATE: rate, DIM: dim} for rate in range(1, 6) for dim in (1, 2, 3)]
    folder = write_sweep(tmp_path, points, lambda p: {NLL: p[RATE] ** 2, RIGHT: 0.0}, 0.0)
    frames = read_sweep(folder)
    shares = importance(frames.arms[0], frames.goals[0])
    assert shares is not None
    assert shares[RATE] > 0.95


def test_the_front_is_what_nothing_beats(tmp_path: Path) -> None:
    table = {1: (1.0, 0.1), 2: (2.0, 0.3), 3: (3.0, 0.2), 4: (4.0, 0.4), 5: (4.0, 0.4)}
    points = [{RATE: rate} for rate in table]

    def metrics(point: dict[str, Any]) -> dict[str, float]:
        return dict(zip((NLL, RIGHT), table[point[RATE]], strict=True))

    frames = read_sweep(write_sweep(tmp_path, points, metrics, 0.0))
    assert pareto_front(frames.arms[0].finished, frames.goals) == [1, 2, 4, 5]


@pytest.mark.slow
def test_collapsed_runs_are_labelled_and_names_are_escaped(tmp_path: Path) -> None:
    reason = "latents collapsed at 5 consecutive points: fm 0.02 is below 0.05 (step 90)"
    folder = write_sweep(
        tmp_path, GRID, bowl(0.0), 0.01, diverged={3: reason}, stop_code="collapsed"
    )
    html = write_sweep_report(folder).read_text()
    assert f"dim 4, loc 1.5: collapsed ({reason})" in html
    assert "|collapsed|" in text_of(html)
    assert "no whole &lt;blocks&gt;" in html
    assert html.count("<svg") >= 5


@pytest.mark.slow
def test_only_the_stop_code_makes_a_run_a_collapsed_one(tmp_path: Path) -> None:
    """The reason is for people, and a record without a code (an older one) claims nothing."""
    folder = write_sweep(tmp_path, GRID, bowl(0.0), 0.01, diverged={3: "latents collapsed"})
    log = folder / "trials.jsonl"
    assert '"stop_code":null' in log.read_text()
    log.write_text(log.read_text().replace('"stop_code":null,', ""))
    html = write_sweep_report(folder).read_text()
    assert "dim 4, loc 1.5: diverged (latents collapsed)" in html
    assert "|collapsed|" not in text_of(html)


def test_agreement_of_two_metrics_is_ranked(tmp_path: Path) -> None:
    answer = {"kind": "tradeoff"}
    folder = write_sweep(tmp_path, GRID, bowl(0.0), 0.01, answer)
    assert any(line.endswith(": they agree.") for line in answers(read_sweep(folder)))


def test_an_optimum_lies_between_the_values_that_were_tried() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    assert optimum(x, (x - 1.3) ** 2) == pytest.approx(1.3)
    assert optimum(x, x) == 0.0


def test_a_population_s_best_member_is_told_with_its_rates(tmp_path: Path) -> None:
    """Two members in two generations: the second is given up for a slower copy of the first."""
    rate, changes = "training.optimizer.learning_rate", "training.schedule.rate_changes"
    points = [{rate: 0.01}, {rate: 0.1}]
    folder = write_sweep(tmp_path, points, lambda point: {NLL: point[rate]}, 0.0, seeds=(1,))
    lines: list[TrialRequested | TrialFinished] = []
    child = {rate: 0.01, changes: [{"at": 0.5, "factor": 0.8}]}
    expected = [
        (1, 0, 0, None, points[0], 3.0), (2, 0, 1, None, points[1], 4.0),
        (3, 1, 0, 1, points[0], 2.5), (4, 1, 1, 1, child, 2.4),
    ]  # fmt: skip
    for trial, generation, member, parent, point, value in expected:
        leg = TrialSegment(generation=generation, member=member, parent=parent,
                  since=generation / 2, until=(generation + 1) / 2)  # fmt: skip
        state: TrialState = "finished" if generation else "paused"
        lines.append(TrialRequested(trial=trial, arm="", point=point, identity=str(trial),
                                run_keys=[str(trial)], leg=leg, time=0.0))  # fmt: skip
        lines.append(TrialFinished(
            trial=trial, state=state, reason=None, metrics={NLL: value}, runs=[], wall_seconds=1.0,
            working_seconds=1.0, training_seconds=1.0, flops=1.0, accelerator_hours=0.0, time=1.0,
        ))  # fmt: skip
    (folder / "trials.jsonl").write_text("".join(f"{x.model_dump_json()}\n" for x in lines))
    arm = read_sweep(folder).arms[0]
    assert descent(arm, 4) == [1, 4]
    page = write_sweep_report(folder).read_text()
    assert "peak rate is 0.01, then 0.008 from 50% of the steps" in page
    assert "the last 2 members descend from 1 of the first 2" in page
    assert "learning_rate 0.01, rate x 0.8 from 50%" in page
    assert (folder / "report" / "population.png").exists()


def test_trials_that_ended_early_are_drawn_as_far_as_they_came(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, [{RATE: 1.0}, {RATE: 2.0}], lambda p: {NLL: p[RATE]}, 0.0)
    log = folder / "trials.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ended = [line for line in lines if line["event"] == "ended"]
    ended[0]["course"] = [[0.25, 5.0], [0.5, 4.5]]
    ended[1] |= {"state": "stopped", "course": [[0.25, 7.0]]}
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    page = write_sweep_report(folder).read_text()
    assert "while trials trained" in page
    assert (folder / "report" / "course.png").exists()
    drawn = course_plot(read_sweep(folder).arms[0], Goal(NLL, 1)).axes[0].lines
    assert [list(line.get_xdata()) for line in drawn] == [[0.25, 0.5, 1.0], [0.25]]


def test_trials_outside_of_an_edited_space_are_left_out(tmp_path: Path) -> None:
    points = [{LOC: float(loc), DIM: 4} for loc in range(4)]
    folder = write_sweep(tmp_path, points, bowl(0.0), noise=0.0)
    content = yaml.safe_load((folder / "sweep.yaml").read_text())
    content["left_out"] = {2: "its loc is not one of the space", 4: "nor is this one's"}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content))
    frames = read_sweep(folder)
    assert list(frames.arms[0].trials["trial"]) == [1, 3]
    assert (frames.open_trials, frames.left_out) == (0, 2)
    assert "2 earlier trials are left out" in write_sweep_report(folder).read_text()


@pytest.mark.parametrize(
    ("sentence", "arm", "title"),
    [
        ("best by NLL is rate 1.5 (3.2), but the data do not decide: within 0.1 (95%).", "",
         "Best by NLL is rate 1.5 (3.2), but the data do not decide"),
        ("ar: best by NLL is rate 1 (3.2); better than every other point: the next", "ar",
         "ar: best by NLL is rate 1 (3.2)"),
        ("By validation NLL: The best loc grows with dim: +0.2 a unit", "",
         "The best loc grows with dim"),
        ("At 1e+12 FLOPs the bound is lowest, 6.0 (95%: 5.9; 6.1), there. More.", "",
         "At 1e+12 FLOPs the bound is lowest, 6.0 (95%: 5.9; 6.1), there"),
    ],
)  # fmt: skip
def test_a_title_is_the_answer_s_first_clause(sentence: str, arm: str, title: str) -> None:
    assert headline(sentence, arm) == title


def test_trials_stand_from_the_best_to_the_worst_in_columns_that_say_something(
    tmp_path: Path,
) -> None:
    rates = [{RATE: rate} for rate in (3.0, 1.0, 2.0, 4.0)]
    folder = write_sweep(tmp_path, rates, lambda p: {NLL: p[RATE], RIGHT: 0.0}, 0.0,
                         diverged={2: "its loss was not finite"})  # fmt: skip
    found = trial_table(read_sweep(folder))
    assert found is not None
    assert [row[0] for row in found.rows] == ["3", "1", "4", "2"]  # diverged ones last
    titles = [column.title for column in found.columns]
    assert titles[:4] == ["trial", "point", "validation NLL, nats per token", 
                          "continuation: token accuracy"]  # fmt: skip
    assert "arm" not in titles
    assert "reason" in titles


def test_of_two_keys_one_figure_shows_all(tmp_path: Path) -> None:
    """A line for each value of the one with fewer; a map where none is a number."""
    frames = read_sweep(write_sweep(tmp_path, GRID, bowl(0.25), 0.02))
    names = [each.name for each in goal_figures(frames, frames.arms[0], frames.goals[0], suffix="")]
    assert names == ["response-0", "importance"]
    drawn = response(frames.arms[0], LOC, frames.goals[0]).axes[0].containers[0]
    error = mean_error(seeds_table(frames.arms[0], frames.goals[0]))
    assert error is not None
    (_, caps, _) = drawn.lines
    assert caps[1].get_ydata()[0] - caps[0].get_ydata()[0] == pytest.approx(2 * error)
    words = [{RATE: a, DIM: b} for a in "xy" for b in "pq"]
    frames = read_sweep(write_sweep(tmp_path, words, lambda p: {NLL: len(p), RIGHT: 0.0}, 0.1))
    names = [each.name for each in goal_figures(frames, frames.arms[0], frames.goals[0], suffix="")]
    assert names == ["interaction"]
