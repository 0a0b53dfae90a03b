"""`cola frontier` on a finished study of two families, from runs to `frontier.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.generation_frontier.record import read_frontier
from cola.data import PreparedData
from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.state.paths import RunFolder
from sweeps.cli import app
from tests.finished import finished_study

FEW = ["--prompts", "9", "--vary", "generation.temperature=0,0.5", "--batches", "1,2"]


@pytest.fixture
def study(tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path) -> StudySpec:
    """Two seeds of AR, one run of LLaDA."""
    found = StudySpec.parse(
        tiny_study
        | {"output": str(tmp_path / "outputs"), "families": {"ar": {}, "llada": {"seeds": [66]}}}
        | {"seeds": [66, 67]}
    )
    finished_study(found, data)
    return found


def frontier(output: Path, *arguments: str) -> Any:
    """What the command prints as JSON, or the error that it ends with."""
    given = ["frontier", "tiny", "--output", str(output), "--json", *arguments]
    result = CliRunner().invoke(app, given)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def test_a_frontier_is_measured_item_by_item_and_taken_up_again(
    study: StudySpec, tmp_path: Path
) -> None:
    output = tmp_path / "outputs"
    plan = frontier(output, *FEW, "--plan")
    assert [row["label"] for row in plan] == ["AR", "LLaDA"]
    assert not list(output.glob("runs/*/evaluation/frontier*"))
    found = frontier(output, *FEW)
    assert (found["prompts"], found["draws"], found["new_tokens"]) == (9, 2, 16)
    ar, llada = found["curves"]
    assert len(ar["runs"]) == len(ar["points"][0]["by_run"]) == 2
    assert [point["changed"] for point in llada["points"]] == [
        {}, {"temperature": 0.0}, {"temperature": 0.5},
    ]  # fmt: skip
    entropies = [point["metrics"]["entropy"] for point in ar["points"]]
    assert entropies[1] < entropies[0]  # the mode repeats itself
    assert found["held_out"]["reference_nats_per_token"] > 0
    assert found["reference"]["judges_itself"] is True
    assert set(llada["speed"]["by_batch"]) == {"1", "2"}
    assert llada["speed"]["by_batch"]["1"]["first_tokens"] == 16  # all of its tokens at once
    assert ar["speed"]["by_batch"]["2"]["first_tokens"] == 1
    assert llada["speed"]["by_batch"]["2"]["peak_bytes"] is None  # a CPU does not count it
    cheaper = llada["points"][0]["flops_per_token"] / ar["points"][0]["flops_per_token"]
    assert cheaper > 4  # the whole text a pass
    assert any("1 and 2 seeds" in each["sentence"] for each in found["comparisons"])
    # Answers and judgements that are there are not made again: no model is needed.
    for run in output.glob("runs/*"):
        (RunFolder(run).model / "model.safetensors").write_bytes(b"")
    again = frontier(output, *FEW)
    assert again["curves"] == found["curves"]
    kept = read_frontier(output / "studies" / "tiny")
    assert kept is not None
    assert kept.variants == ["ar", "llada"]
    assert [quality.name for quality in kept.qualities][0] == "reference_nats_per_token"
    assert len(kept.speed) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "7"], "no finished run of tiny has it; budgets: 2e[+]10"),
        (["--set", "task_items=3"], "a frontier reads keys of generation, and prompt_tokens"),
        (["--set", "prompt_tokens=40"], "a sequence has 32 tokens"),
        (["--reference", "tiny/llada-2e+10-seed66"], "is of family llada"),
        (["--features", "nothing"], r"holds no config\.json"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    study: StudySpec, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        frontier(tmp_path / "outputs", *FEW, *arguments)


def test_without_a_finished_run_the_command_that_trains_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="`cola run tiny` trains them"):
        frontier(tmp_path / "outputs", *FEW)
