"""What the harness asks for, `--model_args` and generation keys, as specifications."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cola.errors import SpecError, one_line
from cola.spec import GenerationSpec, LikelihoodSpec

# Where neither the task nor the user says: as many tokens as the harness's `hf` model makes.
DEFAULT_NEW_TOKENS = 256
MAX_TOKENS_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
OWN_OPTIONS = ("pretrained", "batch_size", "device", "max_length", "seed")


@dataclass(frozen=True)
class Request:
    """How to continue a prompt: `settings`, and the texts at the first of which it ends."""

    settings: GenerationSpec
    until: tuple[str, ...]


def model_settings(options: Mapping[str, Any]) -> tuple[GenerationSpec, LikelihoodSpec]:
    """The generation and likelihood keys among the model's arguments.

    Raises:
        SpecError: for any other key, or a value that a key cannot have.
    """
    generation, likelihood = GenerationSpec.model_fields, LikelihoodSpec.model_fields
    for key, value in options.items():
        if key not in generation and key not in likelihood:
            known = ", ".join([*OWN_OPTIONS, *generation, *likelihood])
            raise SpecError(f"--model_args {key}={value}: no such option; valid: {known}")
    asked = {key: value for key, value in options.items() if key in generation}
    return (
        GenerationSpec.parse({"max_new_tokens": DEFAULT_NEW_TOKENS} | asked, "--model_args"),
        LikelihoodSpec.parse(
            {key: value for key, value in options.items() if key in likelihood}, "--model_args"
        ),
    )


def whole(name: str, value: Any, least: int, *, option: str | None = None) -> int:
    """A whole number of at least `least`, which the command line may give as text.

    Args:
        option: what is before the value where it was given (None: a key of `--model_args`).

    Raises:
        SpecError: for anything else.
    """
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        shown = option or f"--model_args {name}="
        raise SpecError(f"{shown}{value}: must be a whole number from {least} on")
    return value


def device_of(device: str | None) -> str:
    """The device of that name; None: the first CUDA device, or where there is none the CPU.

    Raises:
        SpecError: for a device that is not there.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SpecError(
            f"--device {device}: is not on this machine ({one_line(error, 80)}); use cpu, or leave "
            "the option out"
        ) from None
    return device


def request_of(base: GenerationSpec, asked: Mapping[str, Any]) -> Request:
    """A request's keys over the model's settings, as the harness's `hf` model reads them.

    `do_sample` false is greedy; true is at the temperature asked for (else the model's own, else
    1); without it the temperature decides. Any key of `GenerationSpec` may be asked for.

    Raises:
        SpecError: for any other key, or a value that a key cannot have.
    """
    keys = dict(asked)
    until = keys.pop("until", None)
    sample = keys.pop("do_sample", None)
    if keys.get("num_beams") == 1:  # what some tasks say for "no beam search"
        del keys["num_beams"]
    for name in reversed(MAX_TOKENS_KEYS):  # the first of them wins
        if name in keys:
            keys["max_new_tokens"] = keys.pop(name)
    unknown = [key for key in keys if key not in GenerationSpec.model_fields]
    if unknown:
        valid = ["until", "do_sample", *MAX_TOKENS_KEYS, *GenerationSpec.model_fields]
        raise SpecError(
            f"generation_kwargs {unknown[0]}={keys[unknown[0]]}: no such key; valid: "
            + ", ".join(dict.fromkeys(valid))
        )
    if sample is False:
        keys["temperature"] = 0.0
    elif sample:
        keys.setdefault("temperature", base.temperature or 1.0)
    settings = GenerationSpec.parse(base.model_dump() | keys, "generation_kwargs")
    texts = [until] if isinstance(until, str) else list(until or [])
    return Request(settings, tuple(text for text in texts if text))
