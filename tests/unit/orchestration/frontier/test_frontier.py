"""`cola frontier` on a finished study of two families, from runs to `frontier.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.generation_frontier.record import read_frontier
from cola.data import PreparedData
from cola.data.tokenizer import train_bpe
from cola.errors import SpecError
from cola.study import StudySpec
from sweeps.cli import app
from tests.conftest import tiny_study_of
from tests.factories import tiny_model
from tests.finished import finished_study
from tests.sizes import TINY_CORE

FEW = ["--prompts", "9", "--vary", "generation.temperature=0,0.5", "--batches", "1,2"]


@pytest.fixture(scope="module")
def output(corpus_file: Path, data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a study of AR and LLaDA with two seeds each."""
    folder = tmp_path_factory.mktemp("frontier") / "outputs"
    values = tiny_study_of(corpus_file, folder) | {"families": {"ar": {}, "llada": {}}}
    finished_study(StudySpec.parse(values | {"seeds": [66, 67]}), data)
    return folder


def frontier(output: Path, *arguments: str) -> Any:
    """What the command prints as JSON, or the error that it ends with."""
    given = ["frontier", "tiny", "--output", str(output), "--json", *arguments]
    result = CliRunner().invoke(app, given)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def test_a_frontier_is_measured_item_by_item_and_taken_up_again(output: Path) -> None:
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
    assert all("2 seeds a curve" in each["sentence"] for each in found["comparisons"])
    answers = {path: path.read_bytes() for path in output.glob("runs/*/evaluation/*.jsonl")}
    # A log of answers and one of judgements a setting; and the speeds of a curve's first run.
    assert len(answers) == 4 * 3 * 2 + 2
    assert frontier(output, *FEW)["curves"] == found["curves"]
    assert all(path.read_bytes() == content for path, content in answers.items())
    more = frontier(output, *FEW, "--draws", "3", "--batches", "")
    assert more["draws"] == 3
    assert all(path.read_bytes().startswith(content) for path, content in answers.items())
    frontier(output, *FEW)
    kept = read_frontier(output / "studies" / "tiny")
    assert kept is not None
    assert kept.variants == ["ar", "llada"]
    assert kept.qualities[0].name == "reference_nats_per_token"
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
    output: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        frontier(output, *FEW, *arguments)


def test_without_a_finished_run_the_command_that_trains_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="`cola run tiny` trains them"):
        frontier(tmp_path / "outputs", *FEW)


def test_a_reference_that_reads_other_tokens_is_refused(output: Path, tmp_path: Path) -> None:
    family, model = tiny_model("ar", TINY_CORE["ar"], 270)
    family.save(model, tmp_path)
    train_bpe(["other words than those of the corpus, and their letters"], 270).save(tmp_path)
    with pytest.raises(SpecError, match="has another tokenizer than the study"):
        frontier(output, *FEW, "--reference", str(tmp_path))
