"""The best point of a sweep as settings of a study, and what may change between two calls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cola.errors import SpecError, StorageError
from cola.records import Metric, TrialFinished, TrialRequested
from cola.spec import apply_overrides, load_yaml
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.ledger import LeaseHeldError
from sweeps.driver.best import best_scores, write_best
from sweeps.driver.folder import exclusive_driver, save_spec
from sweeps.search.known_trials import describe_left_out, leave_out_trials
from sweeps.search.trial_log import SweepLog, best_trial
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec

BLOCK = "families.cola.block_size"
NLL = "val/nll_nats_per_token"


def logged(folder: Path, planner: PointPlanner, values: dict[int, float]) -> SweepLog:
    log = SweepLog(folder)
    for trial, (block, nll) in enumerate(values.items(), start=1):
        planned = planner.plan("", {BLOCK: block})
        log.write(TrialRequested(
            trial=trial, arm="", point={BLOCK: block}, identity=planned.identity,
            run_keys=[run.spec.run_key for run in planned.runs], time=time.time(),
        ))  # fmt: skip
        log.write(TrialFinished(
            trial=trial, state="finished", reason=None, runs=[],
            metrics={NLL: nll, Metric.TEST_NLL: nll + 0.1},
            wall_seconds=1, working_seconds=1, training_seconds=1, flops=1, accelerator_hours=0,
            time=time.time(),
        ))  # fmt: skip
    return log


def test_the_best_point_is_a_study_that_reuses_its_run(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    tiny_sweep["space"] = {BLOCK: [8, 16]}
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    log = logged(tmp_path, planner, {8: 5.0, 16: 4.0})
    settings, study = write_best(planner, log, tmp_path)
    first = f"# best trial: 2, {NLL} 4.0000; on the test split 4.1000 nats per token"
    assert settings.read_text().splitlines()[0] == study.read_text().splitlines()[0] == first
    assert best_scores(planner, log) == [first[2:]]
    assert yaml.safe_load(settings.read_text()) == {BLOCK: 16}
    wanted = log.requests[2].run_keys
    whole = StudySpec.parse(yaml.safe_load(study.read_text()))
    assert [run.spec.run_key for run in plan_study(whole)] == wanted
    values = {"name": "x", **tiny_sweep["study"]}
    changed = StudySpec.parse(apply_overrides(values, [f"@{settings}"]))
    assert [run.spec.run_key for run in plan_study(changed)] == wanted


def save(planner: PointPlanner, folder: Path, **changes: Any) -> None:
    """As a driver does before its first trial."""
    trial_log = SweepLog(folder)
    leave_out_trials(planner, trial_log)
    sweep = planner.sweep.model_copy(update=changes)
    fingerprint = planner.fingerprint(planner.base)
    save_spec(sweep, planner.base, folder, fingerprint=fingerprint, trial_log=trial_log)


def test_another_sweep_of_the_same_name_is_refused(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    tiny_sweep["space"] = {BLOCK: [8, 16]}
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    save(planner, tmp_path)
    logged(tmp_path, planner, {8: 5.0})
    save(planner, tmp_path, description="longer")
    tiny_sweep["seeds"] = [1, 2]
    other = PointPlanner(SweepSpec.parse(tiny_sweep), ["max_epochs=50"])
    with pytest.raises(SpecError, match=r"other: seeds, study"):
        save(other, tmp_path)


def test_an_edited_space_continues_without_the_trials_outside_of_it(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    tiny_sweep["space"] = {BLOCK: [8, 16]}
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    save(planner, tmp_path)
    logged(tmp_path, planner, {8: 5.0, 16: 6.0})
    tiny_sweep["space"] = {BLOCK: [16, 32]}
    edited = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    save(edited, tmp_path)
    saved = load_yaml(tmp_path / "sweep.yaml")
    assert saved["left_out"] == {1: "families.cola.block_size=8 is not one of 16, 32"}
    trial_log = SweepLog(tmp_path)
    leave_out_trials(edited, trial_log)
    best = best_trial(trial_log, "", edited.sweep.metrics[0])
    assert best is not None
    assert best[0].point == {BLOCK: 16}


def test_a_population_keeps_its_space(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    population = {"members": 2, "generations": 2}
    tiny_sweep |= {
        "space": {BLOCK: [8, 16, 32]},
        "scheduler": {"kind": "pbt", "population": population},
    }
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    save(planner, tmp_path)
    logged(tmp_path, planner, {8: 5.0})
    tiny_sweep["space"] = {BLOCK: [8, 16]}
    with pytest.raises(SpecError, match=r"other: space\)"):
        save(PointPlanner(SweepSpec.parse(tiny_sweep), []), tmp_path)


def test_another_corpus_of_the_same_name_is_refused(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    """Moved files are the same corpus, edited ones are not."""
    text = Path(tiny_sweep["study"]["data"]["corpus"]["paths"][0]).read_text()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.txt").write_text(text)
    folder = tmp_path / "sweep"
    folder.mkdir()
    tiny_sweep["space"] = {BLOCK: [8, 16]}
    tiny_sweep["study"]["data"]["corpus"]["paths"] = [str(tmp_path / "a" / "corpus.txt")]
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    save(planner, folder)
    logged(folder, planner, {8: 5.0})
    tiny_sweep["study"]["data"]["corpus"]["paths"] = [str(tmp_path / "b" / "corpus.txt")]
    save(PointPlanner(SweepSpec.parse(tiny_sweep), []), folder)
    (tmp_path / "b" / "corpus.txt").write_text(text + "More.")
    with pytest.raises(SpecError, match="other: the content of the corpus"):
        save(PointPlanner(SweepSpec.parse(tiny_sweep), []), folder)


def test_two_drivers_do_not_work_on_one_sweep(tmp_path: Path) -> None:
    refused = pytest.raises(LeaseHeldError, match=f"by another process, which holds {tmp_path}")
    with exclusive_driver(tmp_path, "s"), refused as error, exclusive_driver(tmp_path, "s"):
        raise AssertionError
    assert error.value.exit_code == 6


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[1]", b"{}"])
def test_a_damaged_sweep_file_is_one_line_with_the_remedy(
    tiny_sweep: dict[str, Any], tmp_path: Path, content: bytes
) -> None:
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    save(planner, tmp_path)
    logged(tmp_path, planner, {8: 5.0})
    (tmp_path / "sweep.yaml").write_bytes(content)
    with pytest.raises(StorageError, match="remove the file, and it is written anew"):
        save(planner, tmp_path)


def test_lines_that_are_no_records_are_counted(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_bytes(b'\x00\xff\n[1]\n{}\n{"event": "new"}\n')
    sentence = describe_left_out(SweepLog(tmp_path))
    assert sentence == "4 lines of trials.jsonl are no records of trials and left out"
