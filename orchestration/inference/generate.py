"""Text from a finished run's exported model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from cola.data import open_prepared
from cola.families.registry import family_of
from cola.seeding import Stream
from cola.spec import GenerationSpec
from cola.study import RunSpec
from orchestration.state.paths import RunFolder


@torch.no_grad()
def stream_text(
    folder: Path, spec: RunSpec, prompt: str, settings: GenerationSpec, seed: int
) -> Iterator[str]:
    """The continuation of `prompt` (without it) by the run in `folder`, as it is made."""
    tokenizer = open_prepared(RunFolder(folder).data_folder()).tokenizer
    family = family_of(spec.family)
    model = family.load(RunFolder(folder).model).eval()
    pieces = family.stream(
        model,
        tokenizer.encode(prompt),
        settings,
        Stream(seed, 0, [0]),
        tokenizer.eos_token_id,
    )
    ids: list[int] = []
    said = ""
    for piece in pieces:
        ids += piece
        # Tokens may be parts of a character, and a decoder may treat the first one apart: the
        # whole is decoded anew and what is complete is told.
        text = tokenizer.decode(ids).rstrip("\ufffd")
        yield text[len(said) :]
        said = text


@torch.no_grad()
def fill_text(
    folder: Path, spec: RunSpec, left: str, right: str, settings: GenerationSpec, seed: int
) -> str:
    """`max_new_tokens` tokens of text between `left` and `right` by the run in `folder`.

    Raises:
        SpecError: where the run's family cannot fill a gap.
    """
    tokenizer = open_prepared(RunFolder(folder).data_folder()).tokenizer
    family = family_of(spec.family)
    model = family.load(RunFolder(folder).model).eval()
    (filling,) = family.infill(
        model,
        [tokenizer.encode(left)],
        [settings.max_new_tokens],
        [tokenizer.encode(right)],
        settings,
        Stream(seed, 0, [0]),
    )
    return tokenizer.decode(filling)
