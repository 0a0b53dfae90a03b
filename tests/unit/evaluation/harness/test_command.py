"""Options of lm-evaluation-harness that it would end with a traceback for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cola.errors import SpecError, StorageError

pytest.importorskip("lm_eval")

import torch

from cola.evaluation.harness import ColaLM, run
from cola.evaluation.harness.settings import device_of

MODEL = ["--model", "cola", "--model_args", "pretrained=nowhere", "--tasks", "x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--apply_chat_template"], "--apply_chat_template: base models have no chat template"),
        (["--apply_chat_template", "x"], "base models have no chat template"),
        (["--fewshot_as_multiturn"], "--fewshot_as_multiturn: base models have no chat template"),
        (["--batch_size", "auto"], "--batch_size auto: must be a whole number from 1 on"),
        (["--batch_size", "0"], "--batch_size 0: must be a whole number from 1 on"),
        (["--max_batch_size", "0"], "--max_batch_size 0: must be a whole number from 1 on"),
        (["--num_fewshot", "-1"], "--num_fewshot -1: must be 0 or more"),
        (["--limit", "0"], "--limit 0: must be above 0"),
        (["--limit", "nan"], "--limit nan: must be above 0"),
        (["--include_path", "/no/such"], "--include_path /no/such: is no folder"),
        (["--gen_kwargs", "foo=3"], "generation_kwargs foo=3: no such key"),
        (["--gen_kwargs", "top_p=3"], "top_p"),
        (["--log_samples"], "lm-eval: Specify --output_path"),
        (["--wandb_args", "project=x"], "--wandb_args: the package wandb is not installed"),
        (["--config", "/no/such.yaml"], "--config /no/such.yaml: cannot be read"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(arguments: list[str], message: str) -> None:
    before = list(sys.argv)
    with pytest.raises(SpecError) as caught:
        run([*MODEL, *arguments])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sys.argv == before


@pytest.mark.parametrize("option", ["--output_path", "--use_cache"])
def test_what_cannot_be_written_is_refused_before_the_run(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"{option} .*file.*give another"):
        run([*MODEL, option, str(tmp_path / "file" / "folder" / "x")])


def test_options_of_a_configuration_file_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: cola\ntasks: [x]\napply_chat_template: true\n")
    with pytest.raises(SpecError, match="base models have no chat template"):
        run(["run", "--config", str(path)])
    path.write_text("- x\n")
    with pytest.raises(SpecError, match=r"--config .*: must hold a mapping"):
        run(["run", "--config", str(path)])
    with pytest.raises(SpecError, match="--tasks: names no task"):
        run(["--model", "cola", "--model_args", "pretrained=x"])


def test_a_device_that_is_not_there_is_named() -> None:
    assert device_of("cpu") == "cpu"
    assert device_of(None) == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(SpecError, match="--device tpu9: is not on this machine"):
        device_of("tpu9")
    if not torch.cuda.is_available():
        with pytest.raises(SpecError, match="--device cuda:0: is not on this machine"):
            device_of("cuda:0")


def test_the_model_s_arguments_win_over_the_command_s(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no model"):
        ColaLM.create_from_arg_obj(
            {"pretrained": str(tmp_path), "device": "cpu", "batch_size": 2},
            {"device": "no such", "batch_size": 1, "max_batch_size": None},
        )
    with pytest.raises(SpecError, match="--model_args: lacks pretrained=DIR"):
        ColaLM.create_from_arg_string("seed=3", {"device": "cpu"})
