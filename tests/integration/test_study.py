"""A whole study through real Ray, DeepSpeed and MLflow: finish, kill, stop, run again, report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from cola.errors import SpecError
from cola.records import SOLVER_DIFFERENCE, SOLVER_TOLERANCE
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.journal import JournalReader, Line
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, output_root
from sweeps.cli import app
from tests.conftest import write_study
from tests.paths import COLA
from tests.ray_nodes import RayNodes
from tests.undisturbed import losses_of
from tests.waiting import until

pytestmark = [pytest.mark.slow(seconds=320), pytest.mark.ray, pytest.mark.deepspeed]
TASKS = ("cloze", "continuation", "infilling", "unconditional")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COLA, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "300"},
        start_new_session=True,  # a process group of its own, as under a terminal
    )


def output_of(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a command prints until it ends, errors and all."""
    output, _ = process.communicate(timeout=400)
    assert process.returncode == code, output
    return output


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """One cluster for all commands that need not start their own."""
    with RayNodes(tmp_path_factory.mktemp("head"), head_cpus=2) as nodes:
        yield nodes


def here(*arguments: str) -> str:
    """What the command prints, carried out in this process: for those that start no cluster."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def journals(outputs: Path) -> list[Path]:
    return sorted(outputs.glob("runs/*/journal.jsonl"))


def events_of(journal: Path) -> list[Line]:
    return [line for line in JournalReader(journal).new_lines() if line.kind == "event"]


def states(outputs: Path) -> list[str]:
    return [json.loads(path.read_text())["state"] for path in outputs.glob("runs/*/ledger.json")]


def test_a_study_from_corpus_to_report(
    tiny_study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: RayNodes
) -> None:
    """On a cluster of its own, then on one that is there."""
    monkeypatch.setenv("COLUMNS", "300")
    tiny_study["ladder"] = [{"budget": 1e10, "core_parameters": 70_000}]
    tiny_study["evaluation"] |= {"tasks": list(TASKS), "task_items": 6, "gap_tokens": 6}
    study, outputs = str(write_study(tiny_study, tmp_path)), Path(tiny_study["output"])
    # Nothing starts once the hours are spent; more hours go on from there.
    few = ("--set", "resources.max_accelerator_hours=1e-9")
    guarded = output_of(start("run", study, *few), code=1)
    assert "2 runs are not started" in guarded
    assert states(outputs) == ["finished"]
    drivers = [head.run("run", study, "--address", head.address) for _ in range(2)]
    shown = [output_of(driver) for driver in drivers]  # each ends well, whoever trains what
    assert sum(text.count(": launched") for text in shown) == 2
    joined = "".join(shown)
    assert states(outputs) == ["finished"] * 3
    assert list(outputs.glob("runs/*/ray/attempt-*/step-*")) == []
    # On a cluster the report is written at the end, and is MLflow's too.
    page = outputs / "studies" / "tiny" / "report" / "report.html"
    assert f"report: {page}" in joined
    (published,) = outputs.glob("mlartifacts/tiny/*/artifacts/report/report.html")
    assert published.read_bytes() == page.read_bytes()
    assert (published.parents[1] / "plan.json").exists()
    events = [
        json.loads(line)["event"]
        for line in (outputs / "studies" / "tiny" / "events.jsonl").read_text().splitlines()
    ]
    assert {name: events.count(name) for name in set(events) - {"skipped", "waiting"}} == {
        "launched": 3, "workers started": 3, "finished": 3, "not started": 2,
    }  # fmt: skip
    again = here("run", study)
    assert "nothing to train: all 3 runs are finished already" in again
    assert states(outputs) == ["finished"] * 3

    report = here("report", study)
    folder = outputs / "studies" / "tiny" / "report"
    assert str(folder / "report.html") in report
    results = pd.read_csv(folder / "results.csv")
    assert len(results) == 3
    assert set(results["nll_kind"][results["family"] == "ar"]) == {"exact"}
    assert set(results["nll_kind"][results["family"] == "llada"]) == {"bound"}
    solved = results[results["family"] == "cola"]
    converged = solved["solver_difference_nats_per_latent"].abs() <= SOLVER_TOLERANCE
    assert (solved["nll_kind"] == converged.map({True: "bound", False: "estimate"})).all()
    parts = solved["rate_nats_per_token"] + solved["distortion_nats_per_token"]
    assert parts.tolist() == pytest.approx(solved["nll"].tolist())
    assert (results["train_flops_executed"] <= results["budget"]).all()
    diagnostics = pd.read_csv(folder / "diagnostics.csv")
    assert diagnostics["run"].nunique() == 1
    assert set(diagnostics["family"]) == {"cola"}
    assert "log_snr" in set(diagnostics["diagnostic"])
    html = (folder / "report.html").read_text()
    assert "Data order: equal in all 3 runs" in html
    assert html.count("<svg") >= 3
    measured = pd.read_csv(folder / "task_measurements.csv")
    assert measured.groupby("task")["name"].nunique().to_dict() == dict.fromkeys(TASKS, 3)
    assert '<h2 id="tasks">' in html

    changed = here("plan", study, "--set", "training.optimizer.learning_rate=0.002")
    assert "run again because" in " ".join(changed.split())
    status = json.loads(here("status", study, "--json"))
    assert {run["state"] for run in status["runs"]} == {"finished"}
    name = status["runs"][-1]["run"]
    text = here("generate", f"tiny/{name}", "--prompt", "The river", "--output", str(outputs))
    assert text.strip()
    gap = ("--prompt", "The river", "--right", " to the sea", "--max-new-tokens", "5")
    assert here("generate", f"tiny/{name}", *gap, "--output", str(outputs)).strip()
    evaluated = ("evaluate", "tiny", "--output", str(outputs), "--json")
    everyone = json.loads(here(*evaluated, "--tasks", "continuation,likelihood", "--items", "6"))
    assert len(everyone) == 3
    found = next(report for report in everyone if report["name"] == f"tiny/{name}")
    results = {result["task"]: result for result in found["results"]}
    same = measured[(measured["name"] == name) & (measured["task"] == "continuation")]
    recorded = dict(zip(same["metric"], same["value"], strict=True))
    assert recorded.pop("items") == results["continuation"]["items"] == 6
    assert results["continuation"]["metrics"] == pytest.approx(recorded)
    details = results["likelihood"]["details"]
    exact = abs(details["measurements"][SOLVER_DIFFERENCE]) <= SOLVER_TOLERANCE
    assert details["kind"] == ("bound" if exact else "estimate")
    assert found["untracked"] == {}
    named = ("evaluate", f"tiny/{name}", "--output", str(outputs), "--json")
    (other,) = json.loads(here(*named, "--tasks", "continuation", "--set", "generation.steps=2"))
    assert "study's settings" in other["untracked"]["tiny"]
    here("report", study)
    measured = pd.read_csv(folder / "task_measurements.csv")
    assert measured[measured["task"] == "likelihood"]["name"].nunique() == 3
    other = next(run["run"] for run in status["runs"] if run["run"].startswith("ar-"))
    with pytest.raises(SpecError, match="ar models cannot fill a gap"):
        here("generate", f"tiny/{other}", *gap, "--output", str(outputs))


def test_a_stopped_trajectory_goes_on_and_trains_its_stable_phase_once(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    values = {key: value for key, value in tiny_study.items() if key != "ladder"}
    values["families"] = {"cola": tiny_study["families"]["cola"]}
    values["training"] |= {"schedule": {"kind": "wsd", "decay_fraction": 0.2}}
    budgets = [2e10, 4e10]
    values["design"] = {"kind": "trajectory", "budgets": budgets, "core_parameters": 70_000}
    outputs, study = Path(values["output"]), str(write_study(values, tmp_path))
    plan = json.loads(here("plan", study, "--json"))
    assert [run["first_step"] > 0 for run in plan["runs"]] == [True, False]
    process = start("run", study)
    until(
        lambda: any(len(losses_of(path)) >= 3 for path in journals(outputs)),
        "three lines of losses",
        process=process,
    )
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert states(outputs) == ["interrupted"]
    resumed = output_of(start("run", study))
    assert "resumes from its checkpoint" in resumed
    assert states(outputs) == ["finished"] * 2
    whole, branched = sorted(map(events_of, journals(outputs)), key=len, reverse=True)
    names = [line.values["event"] for line in whole]
    assert names == ["start", "interrupted", "start", "finished"]
    assert whole[2].step == whole[1].step > 0
    assert [line.values["event"] for line in branched] == ["start", "finished"]
    assert branched[0].step > 0
    assert "prefixes" in branched[0].values["from"]
    assert not any((outputs / "prefixes").iterdir())  # nobody needs them any more
    # That a point equals one that is trained whole, bit by bit: tests/unit/orchestration.


def test_a_diverged_run_is_tried_at_a_lower_rate(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    """A rate that no model stands is marked; its second try is a run of its own."""
    tiny_study["families"] = {"ar": {}}
    tiny_study["training"]["optimizer"] = {"learning_rate": 1e18}
    tiny_study["retry_diverged"] = {"factor": 1e-21, "times": 1}
    study, outputs = str(write_study(tiny_study, tmp_path)), Path(tiny_study["output"])
    shown = output_of(start("run", study))
    assert "diverged" in shown
    assert "ar-2e+10-seed66-retry1: finished" in shown
    assert sorted(states(outputs)) == ["diverged", "finished"]
    assert "nothing to train: all 1 runs are finished already" in here("run", study)


def test_a_failed_run_names_its_workers_logs(
    tiny_study: dict[str, Any], tmp_path: Path, head: RayNodes
) -> None:
    """COLA_LOG of the command reaches workers on nodes that were started without it."""
    tiny_study["families"] = {"ar": {}}
    tiny_study["resources"] = {"max_failures": 0}
    study = StudySpec.parse(tiny_study)
    (run,) = plan_study(study)
    ledger = Ledger(output_root(study))
    samples = RunFolder(ledger.run_folder(run.key)).samples
    samples.mkdir(parents=True)  # a folder in the way of a file that the finished run writes

    file = str(write_study(tiny_study, tmp_path))
    process = head.run("run", file, "--address", head.address, COLA_LOG="debug")
    output = output_of(process, code=1)
    reason = ledger.entry(run.key).reason
    assert reason is not None
    assert f"failed ({reason})" in output
    named = re.fullmatch(r"(.*); logs: [^:, ]+:(/.*)/(worker-\*-(\d+)\.err)", reason)
    assert named is not None, reason
    cause, folder, pattern, pid = named.groups()
    assert cause.startswith("rank 0: IsADirectoryError: [Errno 21] Is a directory: ")
    (log,) = Path(folder).glob(pattern)
    assert f"DEBUG cola.logs: process {pid} logs at level DEBUG" in log.read_text()
    assert f"-> '{samples}'" in log.read_text()
    # The driver, a child of the command on a joined cluster, logs to the command's stderr.
    assert f"INFO orchestration.driver.launcher: {run.name}: launched" in output
