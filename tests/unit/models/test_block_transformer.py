"""The network of block diffusion over masks: what a block sees, on either way to attend."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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
