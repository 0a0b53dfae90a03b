"""The likelihoods of block diffusion over masks against enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cola.families.bd3lm.spec import BD3LMModelSpec
from cola.families.registry import definition_of, family_of
from cola.likelihood.masked_blocks import block_chain_rule, block_samples, conditional_bound
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from tests.factories import sharpened

TEXT = torch.tensor([0, 2, 1, 1, 0, 2])


def tiny(block_size: int) -> Any:
    torch.manual_seed(0)
    spec = BD3LMModelSpec(
        hidden_size=16, ffn_size=32, num_layers=2, num_heads=2, vocab_size=3, block_size=block_size
    )
    return sharpened(family_of("bd3lm").build(spec), 8.0)


@torch.no_grad()
def enumerated_bound(model: Any, tokens_L: Tensor) -> float:
    """Over blocks: E over k ~ U{1..s} and over all masks of k of its tokens of (s / k) sum of CE,
    each from a text that ends with the block."""
    size, total = model.config.block_size, 0.0
    for start in range(0, len(tokens_L), size):
        text = tokens_L[: start + size]
        for count in range(1, size + 1):
            masks = list(itertools.combinations(range(start, start + size), count))
            for places in masks:
                noisy = text.clone()
                noisy[list(places)] = model.config.mask_token_id
                log_p = model(text[None], noisy[None]).log_softmax(-1)[0]
                nll = -sum(float(log_p[place, text[place]]) for place in places)
                total += size / count * nll / len(masks) / size
    return total


@torch.no_grad()
@pytest.mark.parametrize("size", [2, 3, 6])
def test_the_bound_against_enumeration(size: int) -> None:
    model, rows = tiny(size), 200
    samples = block_samples(model, TEXT.repeat(rows, 1), size, stream=Stream(0, 0, range(rows)))
    found = samples.sum(2).mean(0)
    error = float(found.std()) / math.sqrt(rows)
    assert abs(float(found.mean()) - enumerated_bound(model, TEXT)) < 4 * error


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_chain_rule_is_a_distribution(size: int) -> None:
    """Over all 3^4 sequences its probabilities sum to 1."""
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    nll_B = block_chain_rule(tiny(size), every).sum(1)
    assert float((-nll_B).exp().sum()) == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_blocks_of_one_token_are_exact_whatever_is_asked_for() -> None:
    model, family = tiny(1), family_of("bd3lm")
    sampled = block_samples(model, TEXT[None], 3, stream=Stream(0, 0, [0])).sum(2)
    exact = block_chain_rule(model, TEXT[None]).sum()
    torch.testing.assert_close(sampled[:, 0], exact.expand(3))
    assert float(exact) == pytest.approx(enumerated_bound(model, TEXT), rel=1e-5)
    settings, definition = LikelihoodSpec(mask_samples=3), definition_of("bd3lm")
    assert family.likelihood_evaluations(model, settings, 6) == 1
    assert definition.nll_kind(family.sizes_of(model), settings) == "exact"
    assert definition.nll_kind(family.sizes_of(tiny(2)), settings) == "bound"
    conditional = family.conditional_nll(
        model, [[0, 2]], [[1, 1]], settings=settings, stream=Stream(0, 0, [0]), eos_token_id=None
    )
    assert conditional.kind == "exact"


@torch.no_grad()
def test_whole_blocks_behind_a_prompt_have_the_text_s_bound_less_the_prompt_s() -> None:
    model, rows = tiny(2), 400
    prompts, continuations = [TEXT[:2].tolist()] * rows, [TEXT[2:].tolist()] * rows
    found = conditional_bound(
        model, prompts, continuations, samples=2, stream=Stream(0, 0, range(rows))
    )
    expected = enumerated_bound(model, TEXT) - enumerated_bound(model, TEXT[:2])
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(rows)
