"""A family of another package (tests/toy_family): known by its entry point alone.

Interpreters of their own have it on their path; nothing of the project imports it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.conftest import tiny_study_of, write_study
from tests.pages import text_of
from tests.typed import Typed, typed

ROOT = Path(__file__).resolve().parents[3]
TOY = ROOT / "tests" / "toy_family"
FAMILIES = {"ar": {}, "toy": {}, "toy-smooth": {"family": "toy", "objective": {"smoothing": 0.2}}}
# What every family promises, and how runs of any family are planned and trained.
PROMISES = (
    "tests/unit/families/test_families.py",
    "tests/unit/families/test_keys_read.py",
    "tests/unit/likelihood/test_conditional.py",
    "tests/unit/orchestration/planning/test_plan.py",
    "tests/unit/sampling/test_refilling.py",
    "tests/unit/orchestration/training/test_train_loop.py",
    "tests/unit/test_flops.py",
)
ACTIVATIONS = "test_activations_are_estimated_from_above"  # of all families


@pytest.fixture
def study(tiny_study: dict[str, Any]) -> dict[str, Any]:
    return tiny_study | {"name": "toys", "families": FAMILIES}


@pytest.fixture(scope="module")
def planned(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Typed]:
    """What `cola plan` says of studies of it, by what is asked."""
    folder = tmp_path_factory.mktemp("planned")
    values = tiny_study_of(corpus_file, folder) | {"name": "toys", "families": FAMILIES}
    path = str(write_study(values, folder))
    values |= {"name": "alone", "families": {"toy": {}}}
    values["evaluation"]["generation"]["temperature"] = 0.5
    alone = str(write_study(values, folder))
    gpu = ("--set", "resources.accelerator=H100", "--set", "resources.gpus_per_worker=1")
    asked = {
        "plain": ["plan", path],
        "on a GPU": ["plan", path, *gpu, "--json"],
        "computed again": ["plan", path, "--set", "resources.activation_checkpointing=always"],
        "alone": ["plan", alone, "--json"],
    }
    return dict(zip(asked, typed([*asked.values()], TOY), strict=True))


@pytest.mark.slow
def test_it_is_planned_as_any_other(planned: dict[str, Typed]) -> None:
    assert "toy-2e+10-seed66" in planned["plain"].said
    assert "toy-smooth-2e+10-seed66" in planned["plain"].said
    plan = json.loads(planned["on a GPU"].said)
    runs = {run["variant"]: run for run in plan["runs"]}
    assert [run["family"] for run in runs.values()] == ["ar", "toy", "toy"]
    toy = runs["toy"]
    assert toy["stages"].keys() == {"counting"}
    assert toy["parameters"]["core"] == pytest.approx(runs["ar"]["parameters"]["core"], rel=0.03)
    flops = toy["train_flops_per_token"]["counting"]
    assert flops == {"mlp": 6 * toy["parameters"]["core"], "head": 6 * 32 * 320}
    assert 0.99 < toy["train_flops"]["executed"] / toy["budget"] <= 1
    each = 8 * 32 + 12 * toy["parameters"]["core"] / 64 + 12 * 320  # bytes a token: one layer
    assert (
        toy["memory"][0]["activation_bytes"]
        == each * 32 * toy["memory"][0]["micro_batch_sequences"]
    )
    assert "evaluation.generation.steps is set" not in plan["warnings"]
    again = planned["computed again"]
    assert again.code == 2
    assert "the networks of toy do not compute their blocks again" in again.said


@pytest.mark.slow
def test_settings_that_no_family_of_the_study_reads_are_told(planned: dict[str, Typed]) -> None:
    found = json.loads(planned["alone"].said)["warnings"]
    unread = {warning.partition(" ")[0] for warning in found if "no family" in warning}
    assert unread == {
        "evaluation.generation.steps",
        "evaluation.likelihood.mask_samples",
        "evaluation.likelihood.ode_steps",
    }


@pytest.mark.slow
def test_it_keeps_every_promise_of_a_family() -> None:
    options = ("-n0", "-q", "-p", "no:cacheprovider", "-m", "not slow or long")
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-k", f"toy or {ACTIVATIONS}", *PROMISES],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TOY}"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    passed = re.search(r"(\d+) passed", process.stdout)
    assert passed is not None, process.stdout
    assert int(passed[1]) >= 26, process.stdout
    assert "failed" not in process.stdout


@pytest.mark.slow
def test_without_its_package_it_is_unknown(study: dict[str, Any], tmp_path: Path) -> None:
    ((code, said),) = typed([["plan", str(write_study(study, tmp_path))]], tmp_path)
    assert code == 2
    assert "families.toy: unknown family 'toy'; valid: ar, llada, cola" in said


@pytest.mark.slow
def test_a_package_that_cannot_be_imported_is_named_in_one_line(
    study: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "site" / "toys-2.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 2.0\n")
    (folder / "entry_points.txt").write_text("[cola.families]\ntoy = toys.definition:TOY\n")
    path = str(write_study(study, tmp_path))
    without = ["plan", path, "--set", "families={ar: {}}"]
    refused, planned = typed([["plan", path], without], folder.parent)
    assert refused.code == 2
    assert len(refused.said.strip().splitlines()) == 1
    assert "family 'toy' of package toys 2.0 cannot be loaded" in refused.said
    assert "No module named 'toys'" in refused.said
    assert planned.code == 0, planned.said  # whoever does not use it is not bothered


@pytest.mark.slow(seconds=75)
@pytest.mark.ray
@pytest.mark.deepspeed
def test_a_whole_study_of_it(study: dict[str, Any], tmp_path: Path) -> None:
    """Trained by Ray and DeepSpeed, evaluated, exported, reported, and swept over."""
    study["families"] = {name: FAMILIES[name] for name in ("toy", "toy-smooth")}
    budgets = (5e9, 1e10, 2e10)  # below the first it knows no more than token frequencies
    study["ladder"] = [{"budget": budget, "core_parameters": 60_000} for budget in budgets]
    tasks = ["likelihood", "cloze", "continuation", "infilling", "speed"]
    study["evaluation"] |= {"tasks": tasks, "task_items": 4, "gap_tokens": 4}
    study["evaluation"]["generation"]["max_new_tokens"] = 8
    path, outputs = str(write_study(study, tmp_path)), Path(study["output"])
    name, exported = "toys/toy-2e+10-seed66", tmp_path / "exported"
    there, corpus = ("--output", str(outputs)), study["data"]["corpus"]["paths"][0]
    plain = ("--tasks", "continuation", "--items", "4", "--set", "prompt_tokens=8", "--json")
    commands = {
        "run": ["run", path],
        "status": ["status", path, "--json"],
        "run again": ["run", path],
        "report": ["report", path],
        "generate": ["generate", name, "--prompt", "The river", *there],
        "export": ["export", name, "--to", str(exported), *there],
        "evaluate": ["evaluate", str(exported), *plain, "--held-out", corpus, *there],
        "sweep": ["sweep", str(sweep_of(study, tmp_path))],
    }
    done = dict(zip(commands, typed([*commands.values()], TOY), strict=True))
    assert [result.said for result in done.values() if result.code] == []
    status = json.loads(done["status"].said)["runs"]
    assert {run["state"] for run in status} == {"finished"}
    assert [run["variant"] for run in status] == ["toy", "toy-smooth"] * 3
    assert "nothing to train" in done["run again"].said

    folder = outputs / "studies" / "toys" / "report"
    html = text_of((folder / "report.html").read_text())
    assert "toy-smooth against Toy" in html
    assert "Toy: it sees one token of every prompt." in html
    assert "mean entropy of the next token, nats" in html
    curves = pd.read_csv(folder / "fitted_curves.csv")
    assert set(curves["variant"]) == {"toy", "toy-smooth"}
    assert set(curves["family"]) == {"toy"}

    assert done["generate"].said.strip()
    assert "# Toy, trained by cola-scaling" in (exported / "README.md").read_text()
    (found,) = json.loads(done["evaluate"].said)
    assert (found["family"], found["context"]) == ("toy", 32)
    assert "2 finished" in done["sweep"].said


def sweep_of(study: dict[str, Any], folder: Path) -> Path:
    """A sweep over a setting of the toy's objective, at the study's first budget."""
    base = {key: value for key, value in study.items() if key not in ("name", "families")}
    base |= {"families": {"toy-smooth": {"family": "toy"}}, "ladder": study["ladder"][:1]}
    sweep = {
        "name": "smoothing",
        "study": base,
        "space": {"families.toy-smooth.objective.smoothing": [0.0, 0.1]},
        "algorithm": {"kind": "grid"},
        "concurrent_trials": 1,
    }
    file = folder / "smoothing.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return file
