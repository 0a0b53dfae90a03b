"""Text from a finished run's exported model."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cola.data import open_prepared
from cola.families import family_of
from cola.seeding import Stream
from cola.spec import GenerationSpec, RunSpec


def continue_text(
    folder: Path, spec: RunSpec, prompt: str, settings: GenerationSpec, seed: int
) -> str:
    """The continuation of `prompt` (without it) by the run in `folder`."""
    tokenizer = open_prepared(
        Path(json.loads((folder / "data.json").read_text())["folder"])
    ).tokenizer
    family = family_of(spec.family)
    model = family.load(folder / "model").eval()
    with torch.no_grad():
        continuations = family.generate(
            model,
            [tokenizer.encode(prompt)],
            settings,
            Stream(seed, 0, [0]),
            tokenizer.eos_token_id,
        )
    return tokenizer.decode(continuations[0])
