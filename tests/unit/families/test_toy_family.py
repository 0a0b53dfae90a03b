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

from tests.conftest import write_study
from tests.pages import text_of
from tests.paths import COLA

ROOT = Path(__file__).resolve().parents[3]
TOY = ROOT / "tests" / "toy_family"
FAMILIES = {"ar": {}, "toy": {}, "toy-smooth": {"family": "toy", "objective": {"smoothing": 0.2}}}
# What every family promises, and how runs of any family are planned and trained.
PROMISES = (
    "tests/unit/families/test_families.py",
    "tests/unit/families/test_keys_read.py",
    "tests/unit/likelihood/test_conditional.py",
    "tests/unit/sampling/test_refilling.py",
    "tests/unit/orchestration/training/test_train_loop.py",
    "tests/unit/test_flops.py",
)


def run(*arguments: str, path: Path = TOY, code: int = 0, seconds: float = 400) -> str:
    """What an interpreter says that has `path` on its path, as do its children."""
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}", "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    assert process.returncode == code, process.stdout
    return process.stdout


def cola(*arguments: str, **options: Any) -> str:
    return run(*COLA[1:], *arguments, **options)


@pytest.fixture
def study(tiny_study: dict[str, Any]) -> dict[str, Any]:
    return tiny_study | {"name": "toys", "families": FAMILIES}


@pytest.mark.slow
def test_it_is_planned_as_any_other(study: dict[str, Any], tmp_path: Path) -> None:
    path = str(write_study(study, tmp_path))
    shown = cola("plan", path)
    assert "toy-2e+10-seed66" in shown
    assert "toy-smooth-2e+10-seed66" in shown
    gpu = ("--set", "resources.accelerator=H100", "--set", "resources.gpus_per_worker=1")
    plan = json.loads(cola("plan", path, *gpu, "--json"))
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
    again = ("--set", "resources.activation_checkpointing=always")
    assert "the networks of toy do not compute their blocks again" in cola(
        "plan", path, *again, code=2
    )


@pytest.mark.slow
def test_settings_that_no_family_of_the_study_reads_are_told(
    study: dict[str, Any], tmp_path: Path
) -> None:
    study["families"] = {"toy": {}}
    study["evaluation"]["generation"]["temperature"] = 0.5
    found = json.loads(cola("plan", str(write_study(study, tmp_path)), "--json"))["warnings"]
    unread = {warning.partition(" ")[0] for warning in found if "no family" in warning}
    assert unread == {
        "evaluation.generation.steps",
        "evaluation.likelihood.mask_samples",
        "evaluation.likelihood.ode_steps",
    }


@pytest.mark.slow
def test_it_keeps_every_promise_of_a_family() -> None:
    quick = (
        "-n0",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow or long",
        "-k",
        "toy",
        *PROMISES,
    )
    said = run("-m", "pytest", *quick)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, said
    assert int(passed[1]) >= 25, said
    assert "failed" not in said


@pytest.mark.slow
def test_its_activations_are_estimated_from_above() -> None:
    test = (
        "tests/unit/orchestration/planning/test_plan.py::test_activations_are_estimated_from_above"
    )
    assert "1 passed" in run("-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", test)


@pytest.mark.slow
def test_without_its_package_it_is_unknown(study: dict[str, Any], tmp_path: Path) -> None:
    said = cola("plan", str(write_study(study, tmp_path)), path=tmp_path, code=2)
    assert "families.toy: unknown family 'toy'; valid: ar, llada, cola" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_package_that_cannot_be_imported_is_named_in_one_line(
    study: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "site" / "toys-2.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 2.0\n")
    (folder / "entry_points.txt").write_text("[cola.families]\ntoy = toys.definition:TOY\n")
    path = str(write_study(study, tmp_path))
    said = cola("plan", path, path=folder.parent, code=2)
    assert len(said.strip().splitlines()) == 1
    assert "family 'toy' of package toys 2.0 cannot be loaded" in said
    assert "No module named 'toys'" in said
    # Whoever does not use it is not bothered.
    cola("plan", path, "--set", "families={ar: {}}", path=folder.parent)


@pytest.mark.slow(seconds=110)
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
    cola("run", path)
    status = json.loads(cola("status", path, "--json"))["runs"]
    assert {run["state"] for run in status} == {"finished"}
    assert [run["variant"] for run in status] == ["toy", "toy-smooth"] * 3
    assert "nothing to train" in cola("run", path)

    cola("report", path)
    folder = outputs / "studies" / "toys" / "report"
    html = text_of((folder / "report.html").read_text())
    assert "toy-smooth against Toy" in html
    assert "Toy: it sees one token of every prompt." in html
    assert "mean entropy of the next token, nats" in html
    curves = pd.read_csv(folder / "fitted_curves.csv")
    assert set(curves["variant"]) == {"toy", "toy-smooth"}
    assert set(curves["family"]) == {"toy"}

    name = f"toys/{status[-2]['run']}"
    there = ("--output", str(outputs))
    assert cola("generate", name, "--prompt", "The river", *there).strip()
    exported = tmp_path / "exported"
    cola("export", name, "--to", str(exported), *there)
    assert "# Toy, trained by cola-scaling" in (exported / "README.md").read_text()
    plain = ("--tasks", "continuation", "--items", "4", "--set", "prompt_tokens=8", "--json")
    corpus = study["data"]["corpus"]["paths"][0]
    (found,) = json.loads(cola("evaluate", str(exported), *plain, "--held-out", corpus, *there))
    assert (found["family"], found["context"]) == ("toy", 32)

    base = {key: value for key, value in study.items() if key not in ("name", "families")}
    base |= {"families": {"toy-smooth": {"family": "toy"}}, "ladder": study["ladder"][:1]}
    sweep = {
        "name": "smoothing",
        "study": base,
        "space": {"families.toy-smooth.objective.smoothing": [0.0, 0.1]},
        "algorithm": {"kind": "grid"},
        "concurrent_trials": 1,
    }
    file = tmp_path / "smoothing.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    assert "2 finished" in cola("sweep", str(file))
