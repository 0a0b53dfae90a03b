"""The network of block diffusion over masks: what a block sees, on either way to attend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cola.errors import SpecError
from cola.families.registry import family_of
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from tests.factories import tiny_model

VOCAB, LENGTH, SIZE = 40, 16, 4


def made() -> tuple[Any, torch.Tensor, torch.Tensor]:
    _, model = tiny_model("bd3lm", 60_000, VOCAB, 8.0, block_size=SIZE)
    generator = torch.Generator().manual_seed(1)
    tokens_BL = torch.randint(0, VOCAB, (2, LENGTH), generator=generator)
    mask_BL = torch.rand(2, LENGTH, generator=generator) < 0.5
    return model, tokens_BL, tokens_BL.masked_fill(mask_BL, model.config.mask_token_id)


@torch.no_grad()
def test_a_block_sees_itself_and_the_clean_blocks_before_it() -> None:
    model, tokens_BL, noisy_BL = made()
    before = model(tokens_BL, noisy_BL)
    changed = []
    for place in range(LENGTH):
        clean_BL, other_BL = tokens_BL.clone(), noisy_BL.clone()
        clean_BL[:, place] = (clean_BL[:, place] + 1) % VOCAB
        other_BL[:, place] = (other_BL[:, place] + 1) % VOCAB
        for given in ((clean_BL, noisy_BL), (tokens_BL, other_BL)):
            moved_L = (model(*given) - before).abs().amax((0, 2)) > 1e-4
            changed.append(moved_L.unflatten(0, (-1, SIZE)))
    for place in range(LENGTH):
        own, (by_clean, by_noisy) = place // SIZE, changed[2 * place : 2 * place + 2]
        assert not by_clean[: own + 1].any()
        assert by_clean[own + 1 :].all()
        assert by_noisy[own].all()
        assert int(by_noisy.sum()) == SIZE


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_same_logits() -> None:
    """What CUDA runs, forward and unfused."""
    model, tokens_BL, noisy_BL = made()
    expected = model(tokens_BL, noisy_BL)
    model.uses_flex = lambda device: True
    torch.testing.assert_close(model(tokens_BL, noisy_BL), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("given", ["x", 0, -3, 2.5, True, None])
def test_a_folder_without_a_size_of_blocks_is_refused(given: object, tmp_path: Path) -> None:
    family, (model, _, _) = family_of("bd3lm"), made()
    family.save(model, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"block_size": given}))
    with pytest.raises(SpecError, match=r"block_size is .*, not a whole number from 1 on"):
        family.load(tmp_path)


def test_sequences_of_other_lengths_than_whole_blocks_are_refused() -> None:
    model, tokens_BL, _ = made()
    with pytest.raises(SpecError, match="15 tokens are no whole blocks of block_size=4"):
        family_of("bd3lm").likelihood(
            model, tokens_BL[:, 1:], LikelihoodSpec(), stream=Stream(0, 0, range(2))
        )
