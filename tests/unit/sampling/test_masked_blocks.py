"""Continuations of block diffusion over masks: the cache, blocks, gaps, draws."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from cola.evaluation.predictive_scores import log_mean_exp
from cola.families.registry import family_of
from cola.likelihood.masked_blocks import conditional_chain_rule
from cola.sampling.masked_blocks import infill
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.factories import tiny_model

VOCAB, SIZE = 12, 4


@functools.cache
def model(size: int = SIZE) -> Any:
    return tiny_model("bd3lm", 30_000, VOCAB, 4.0, block_size=size)[1]


@torch.no_grad()
def written_out(text: list[int], new: int) -> list[int]:
    """Without a cache, one row: the likeliest of all predictions in the block, one a pass."""
    end, mask = len(text) + new, model().config.mask_token_id
    while len(text) < end:
        known = len(text) // SIZE * SIZE
        block = text[known:] + [mask] * (SIZE - len(text) + known)
        wanted = range(len(text) - known, min(SIZE, end - known))
        while any(block[place] == mask for place in wanted):
            noisy = torch.tensor([text[:known] + block])
            clean = torch.tensor([text[:known] + [0] * SIZE])  # the last block is never read
            probability = model()(clean, noisy)[0, known:].softmax(-1)
            masked = [place for place in wanted if block[place] == mask]
            place = max(masked, key=lambda place: float(probability[place].max()))
            block[place] = int(probability[place].argmax())
        text = text[:known] + block[: wanted.stop]
    return text[-new:]


@pytest.mark.parametrize("prompt", [3, 4, 6])
def test_cached_blocks_are_those_of_the_pass_on_both_copies(prompt: int) -> None:
    texts = [[(3 * place + row) % VOCAB for place in range(prompt)] for row in range(2)]
    settings = GenerationSpec(max_new_tokens=7)
    with torch.no_grad():
        made = family_of("bd3lm").generate(
            model(), texts, settings, stream=Stream(0, 0, range(2)), eos_token_id=None
        )
    assert made == [written_out(text, 7) for text in texts]


@torch.no_grad()
def test_a_gap_has_its_length_and_sees_what_shares_its_last_block() -> None:
    def filled(right: list[int]) -> list[int]:
        (row,) = infill(
            model(),
            [[1, 2]],
            [4],
            rights=[right],
            settings=GenerationSpec(),
            stream=Stream(0, 0, [0]),
        )
        return row

    made = [filled([token, 0]) for token in range(VOCAB)]
    assert {len(row) for row in made} == {4}
    assert len({tuple(row[:2]) for row in made}) == 1  # of the block before the right context's
    assert len({tuple(row[2:]) for row in made}) > 1
    assert filled([5, 6]) == filled([5, 6, 7, 8])  # later blocks are never seen
    assert (
        filled([])
        == family_of("bd3lm").generate(
            model(),
            [[1, 2]],
            GenerationSpec(max_new_tokens=4),
            stream=Stream(0, 0, [0]),
            eos_token_id=None,
        )[0]
    )


@torch.no_grad()
def test_the_mean_over_orders_is_the_sampler_s_probability() -> None:
    """Three tokens in two blocks, behind a prompt that fills three places of the first."""
    family = family_of("bd3lm")
    text = torch.tensor([[3, 1, 4, 1, 5, 9]])
    settings = GenerationSpec(max_new_tokens=3).ancestral()
    found = family.predictive_draws(
        model(),
        text[:, :3],
        text[:, 3:],
        settings,
        draws=range(100),
        stream=Stream(0, 0, [0]),
        eos_token_id=None,
    )
    mask, chains = model().config.mask_token_id, []
    first = model()(text[:, :4], torch.tensor([[3, 1, 4, mask]]))[0, 3].double().log_softmax(-1)
    clean = torch.cat([text, torch.zeros(1, 2, dtype=torch.long)], 1)
    for order in itertools.permutations([4, 5]):
        noisy, log_p = torch.tensor([[*text[0, :4].tolist(), *[mask] * 4]]), float(first[1])
        for place in order:
            row = model()(clean, noisy)[0, place].double().log_softmax(-1)
            log_p += float(row[text[0, place]])
            noisy[0, place] = text[0, place]
        chains.append(log_p)
    assert found.joint_BMN is not None
    joint_M = found.joint_BMN[0].sum(1).numpy()
    assert {round(value, 4) for value in joint_M} == {round(value, 4) for value in chains}
    exact = float(log_mean_exp(np.array(chains)))
    assert float(log_mean_exp(joint_M)) == pytest.approx(exact, abs=0.05 * abs(exact))
    assert found.marginal_BMN is not None
    right = (found.tokens_BMN[0] == text[0, 3:]).double().mean(0)
    expected = found.marginal_BMN[0].exp().mean(0)
    assert (right - expected).abs().max() < 4 * math.sqrt(0.25 / 100)


@torch.no_grad()
def test_what_is_generated_from_left_to_right_is_greedy_by_the_chain_rule() -> None:
    settings = GenerationSpec(max_new_tokens=6)
    one = model(1)  # in blocks of one token there is no other order
    (made,) = family_of("bd3lm").generate(
        one, [[2, 7]], settings, stream=Stream(0, 0, [0]), eos_token_id=None
    )
    other = [*made[:5], (made[5] + 1) % VOCAB]
    _, greedy = conditional_chain_rule(one, [[2, 7]] * 2, [made, other])
    assert greedy.tolist() == [True, False]
