"""The harness's own command line, with the model type `cola` registered."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lm_eval.__main__ import HarnessCLI, setup_logging

from cola.errors import ColaError, RunError, SpecError, StorageError, one_line
from cola.evaluation.harness.lm import MODEL_TYPE
from cola.evaluation.harness.requests import NO_TEMPLATE
from cola.evaluation.harness.settings import request_of, whole
from cola.spec import GenerationSpec

log = logging.getLogger(__name__)

# What the harness raises for what was asked of it; the rest is a failure of the run.
REFUSALS = (ValueError, TypeError, LookupError, OSError, AssertionError, NotImplementedError)


def run(arguments: Sequence[str]) -> None:
    """Do what `lm_eval ARGUMENTS` does; its exits (`SystemExit`) are passed on.

    Without `--device` the model `cola` is on the first CUDA device, or where there is none on the
    CPU.

    Raises:
        SpecError: for invalid arguments of the harness or the model.
        RunError: where the evaluation fails.
    """
    before = sys.argv
    sys.argv = ["lm_eval", *arguments]  # the harness reads no others
    try:
        setup_logging()
        parser = HarnessCLI()
        asked = parser.parse_args()
        if getattr(asked, "command", None) == "run":
            check(asked)
        parser.execute(asked)
    except ColaError:
        raise
    except REFUSALS as error:
        log.debug("the harness's error", exc_info=True)
        raise SpecError(f"lm-eval: {_described(error)}") from error
    except Exception as error:
        log.debug("the harness's error", exc_info=True)
        raise RunError(f"lm-eval: {_described(error)}; `cola -vv lm-eval` shows where") from error
    finally:
        sys.argv = before


def check(asked: argparse.Namespace) -> None:
    """Refuse what the harness would end with a traceback for; choose the device of our models.

    Raises:
        SpecError: naming the option and its value.
    """
    settings = _settings(asked)
    _check_numbers(settings)
    include = settings.get("include_path")
    for folder in str(include).split(os.pathsep) if include else ():
        if not Path(folder).is_dir():
            raise SpecError(f"--include_path {folder}: is no folder; give one with task files")
    if not settings.get("tasks"):
        raise SpecError("--tasks: names no task; `cola lm-eval ls tasks` lists them")
    _check_outputs(settings)
    if settings.get("model") != MODEL_TYPE:
        return
    if settings.get("apply_chat_template"):
        raise SpecError(NO_TEMPLATE)
    if settings.get("fewshot_as_multiturn"):
        raise SpecError("--fewshot_as_multiturn: base models have no chat template; leave it out")
    if isinstance(settings.get("gen_kwargs"), dict):
        request_of(GenerationSpec(), settings["gen_kwargs"])
    for name in ("batch_size", "max_batch_size"):
        if settings.get(name) is not None:
            whole(name, settings[name], 1, option=f"--{name} ")
    if settings.get("device") is None:
        asked.device = "cuda:0" if torch.cuda.is_available() else "cpu"


def _settings(asked: argparse.Namespace) -> dict[str, Any]:
    """The command's options over those of its `--config`."""
    given = {key: value for key, value in vars(asked).items() if value is not None}
    path = given.get("config")
    return (_config_in(Path(path)) | given) if path else given


def _config_in(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(
            f"--config {path}: cannot be read ({one_line(error)}); give a YAML file of options"
        ) from None
    if not isinstance(content, dict):
        raise SpecError(f"--config {path}: must hold a mapping of options")
    return content


def _check_numbers(settings: Mapping[str, Any]) -> None:
    shots, limit = settings.get("num_fewshot"), settings.get("limit")
    if isinstance(shots, int) and shots < 0:
        raise SpecError(f"--num_fewshot {shots}: must be 0 or more")
    if isinstance(limit, int | float) and not limit > 0:
        raise SpecError(
            f"--limit {limit:g}: must be above 0: a number of items, or below 1 a share of them"
        )


def _check_outputs(settings: Mapping[str, Any]) -> None:
    """Raises: StorageError, SpecError, for what results and answers could not be written to."""
    output, cache = settings.get("output_path"), settings.get("use_cache")
    if output:
        path = Path(str(output))
        _make_folder("--output_path", path.parent if path.suffix == ".json" else path)
    if cache:
        _make_folder("--use_cache", Path(str(cache)).parent)
    if settings.get("wandb_args") and importlib.util.find_spec("wandb") is None:
        raise SpecError(
            "--wandb_args: the package wandb is not installed; pip install wandb, or leave the "
            "option out"
        )


def _make_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{option} {folder}: is no folder that can be made ({error.strerror}); give another"
        ) from None
    if not os.access(folder, os.W_OK):
        raise StorageError(f"{option} {folder}: cannot be written to; give another folder")


def _described(error: BaseException) -> str:
    text = one_line(error)
    missing = text.removeprefix("Tasks not found: ")
    if missing != text:
        return (
            f"--tasks {missing}: not found; `cola lm-eval ls tasks` lists the harness's own, and "
            "--include_path adds a folder of task files (YAML that can be read)"
        )
    if "larger than population" in text:
        return "--num_fewshot: is more examples than a task has; give fewer"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
