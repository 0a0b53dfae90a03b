"""`cola evaluate` on plain folders with a model: results, refusals, several workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cola.data.tokenizer import train_bpe
from cola.errors import SpecError
from sweeps.cli import app
from tests.factories import tiny_model
from tests.sizes import FAMILIES, SMALL, TINY_CORE

FEW = ["--items", "5", "--set", "generation.max_new_tokens=8", "--set", "generation.steps=2"]
STORY = "The lamp stands beside the river and the garden behind the lamp is dark. " * 4
TINY = ["--set", "prompt_tokens=12", "--set", "gap_tokens=8", "--context", "48"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    line = "The lamp stands beside the river and the garden behind the lamp is dark. "
    path.write_text("\n\n".join(line * 6 + f"Chapter {n}." for n in range(40)))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, text: Path) -> dict[str, Path]:
    """A folder with an untrained model for every family."""
    tokenizer = train_bpe([text.read_text()], 300)
    found = {}
    for name in FAMILIES:
        family, model = tiny_model(name, TINY_CORE[name], 300, **SMALL.get(name, {}))
        folder = tmp_path_factory.mktemp(name)
        family.save(model, folder)
        tokenizer.save(folder)
        found[name] = folder
    return found


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    items = [
        {"id": n, "prompt": f"{STORY}Question {n}?\n(A) lamp\n(B) river\nAnswer:", "answer": "lamp",
         "choices": ["lamp", "river"]} for n in range(5)
    ]  # fmt: skip
    (folder / "obqa.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


def evaluate(output: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    """What the command prints as JSON, or the error that it ends with."""
    given = ["evaluate", *map(str, arguments), "--output", str(output), "--json"]
    result = CliRunner().invoke(app, given)
    if result.exception is not None:
        raise result.exception
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_models_of_all_families_on_every_kind_of_task(
    models: dict[str, Path], text: Path, tasks: Path, tmp_path: Path
) -> None:
    given = [*models.values(), "--tasks", "in-domain,obqa", "--task-folder", tasks, *FEW, *TINY]
    found = evaluate(tmp_path, *given, "--held-out", text, "--reference", models["ar"])
    assert [report["family"] for report in found] == list(FAMILIES)
    for report in found:
        names = [result["task"] for result in report["results"]]
        assert names == [
            "likelihood", "cloze", "predictive", "continuation", "infilling", "unconditional",
            "speed", "obqa",
        ]  # fmt: skip
        by_name = {result["task"]: result for result in report["results"]}
        assert by_name["obqa"]["items"] == by_name["cloze"]["items"] == 5
        assert by_name["obqa"]["metrics"]["chance"] == 0.5
        assert by_name["obqa"]["details"]["prompts_cut"] == 5
        assert by_name["unconditional"]["details"]["reference"] == str(models["ar"])
        assert by_name["infilling"]["details"]["right_context"] is (report["family"] != "ar")
        kept = sorted(path.name for path in Path(report["answers"]).glob("*.json"))
        assert len(kept) == 8
        predictive = by_name["predictive"]
        assert predictive["items"] == predictive["details"]["clusters"] == 5
        assert "unigram_brier_1" not in predictive["metrics"]  # no training text beside the model
        assert report["held_out"] == [str(text)]
        # Five items were asked for: the likelihood is of five sequences, and says of how many.
        details = by_name["likelihood"]["details"]
        assert (details["measured"]["sequences"], details["measured"]["tokens"]) == (5, 5 * 48)
        assert details["text"]["bytes"] == text.stat().st_size
    assert found[0]["against_first"] == {}
    compared = set(names) - {"unconditional", "speed"}
    assert set(found[1]["against_first"]) == compared
    difference = found[1]["against_first"]["continuation"]["mean"]
    shares = [by_task(report)["continuation"]["accuracy"] for report in found]
    assert difference == pytest.approx(shares[1] - shares[0])
    # At temperature 0 Cola DLM's answers are draws of latents, the first model's are modes.
    assert set(found[2]["against_first"]) == {"likelihood", "predictive"}
    assert set(found[2]["not_compared"]) == compared - {"likelihood", "predictive"}
    assert "a draw, the first model's a mode" in found[2]["not_compared"]["obqa"]
    kinds = [result["details"]["protocol"]["kind"] for r in found for result in r["results"]
             if result["task"] == "continuation"]  # fmt: skip
    assert kinds[:3] == ["mode", "mode", "draw"]
    for report in found:
        assert by_task(report)["speed"]["flops_per_token"] > 0
    again = evaluate(tmp_path, *given, "--held-out", text, "--reference", models["ar"])
    assert again == found  # the speed too: it is not measured again


def by_task(report: dict[str, Any]) -> dict[str, Any]:
    return {result["task"]: result["metrics"] for result in report["results"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 1, "prompt": "a", "answer": "b", "choices": ["b", "c"]}\n{"id": 2', "line 2"),
        ('{"id": 1, "prompt": "a", "choices": ["b", "c"]}', "answer: field required"),
        ('{"id": 1, "prompt": "a", "answer": "b"}', "at least two `choices`"),
        ("", "holds no line"),
    ],
)
def test_malformed_items_are_refused_before_anything_is_answered(
    content: str, message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "obqa.jsonl").write_text(content)
    with pytest.raises(SpecError, match=message):
        evaluate(tmp_path, models["ar"], "--tasks", "obqa", "--task-folder", tmp_path, *FEW)
    assert not (tmp_path / "evaluation").exists()


def test_what_cannot_be_evaluated_is_refused(
    models: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    few_shot = ["--tasks", "obqa", "--task-folder", tasks, *FEW]
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((models["ar"] / "config.json").read_text())
    for arguments, message in (
        ([bare, *few_shot], "without its tokenizer"),
        ([tasks, *few_shot], "holds no model that can be evaluated"),
        ([tmp_path / "nothing", *few_shot], "no such run"),
        ([models["ar"], "--tasks", "trivia", *FEW], "--tasks trivia: unknown; valid: likelihood"),
        ([models["ar"], "--tasks", "cloze"], "needs held-out text"),
        ([models["ar"], "--tasks", "cloze", *FEW], r"max_new_tokens=8: has no effect on cloze"),
        (
            [models["ar"], *few_shot, "--set", "generation.stepz=3"],
            r"generation\.steps\?",
        ),
        (
            [models["ar"], *few_shot, "--context", "8"],
            r"--tasks obqa: generates 8 tokens, which leaves no room for a prompt in the model's "
            r"context of 8 tokens; give --set generation\.max_new_tokens= of less than 8",
        ),
        (
            [models["ar"], *few_shot, "--set", "likelihood.ode_steps=2"],
            r"--set likelihood\.ode_steps=2: has no effect on obqa; likelihood, cloze read it",
        ),
        ([models["ar"], *few_shot, "--reference", models["cola"]], "is of family cola"),
        (
            [models["ar"], *few_shot, "--reference", models["ar"]],
            "--reference: has no effect on obqa; unconditional read it",
        ),
        (
            [models["ar"], *few_shot, "--held-out", tasks / "obqa.jsonl"],
            "--held-out: has no effect on obqa; likelihood, cloze, ",
        ),
        (
            [models["ar"], "--tasks", "cloze", "--task-folder", tasks],
            "--task-folder: has no effect on cloze; the few-shot tasks read it",
        ),
        (
            [models["ar"], "--tasks", "likelihood", "--context", "16"],
            "--context: has no effect on likelihood",
        ),
        ([models["ar"], *few_shot, "--held-out", ""], "--held-out: an empty path"),
    ):
        with pytest.raises(SpecError, match=message):
            evaluate(tmp_path, *arguments)


def test_the_number_of_new_tokens_reaches_few_shot_tasks(
    models: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    given = [models["ar"], "--tasks", "obqa", "--task-folder", tasks]
    found = {}
    for new in (None, 1, 8):
        own = [] if new is None else ["--set", f"generation.max_new_tokens={new}"]
        (report,) = evaluate(tmp_path, *given, *own, "--set", "generation.steps=2")
        assert report["unread_settings"] == ["generation.steps"]
        (result,) = report["results"]
        found[new] = result["details"]["generation"]["max_new_tokens"]
    assert found == {None: 32, 1: 1, 8: 8}
    longest = [
        max(json.loads(line)["record"]["new_tokens"] for line in path.read_text().splitlines())
        for path in Path(report["answers"]).glob("*.jsonl")
    ]
    assert sorted(longest)[0] == 1
    assert sorted(longest)[1] <= 8


@pytest.mark.slow
@pytest.mark.ray
def test_two_workers_answer_as_one_process(
    models: dict[str, Path], text: Path, tasks: Path, tmp_path: Path
) -> None:
    given = [models["cola"], "--tasks", "obqa,unconditional", "--task-folder", tasks, *FEW]
    given += ["--context", "48"]
    given += ["--held-out", text, "--rows", "2", "--reference", models["ar"]]
    alone, spread = (
        [found["results"] for found in evaluate(tmp_path / name, *given, *workers)]
        for name, workers in (("alone", []), ("spread", ["--workers", "2"]))
    )
    assert spread == alone
