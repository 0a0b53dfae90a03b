"""Embedding diffusion's velocity and likelihoods where they are known: a trunk that says nothing
leaves a mixture of equal Gaussians round the embeddings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cola.families.registry import definition_of, family_of
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from tests.factories import tiny_model
from tests.unit.likelihood.known_priors import Codewords

VOCAB, BLOCK, LENGTH = 7, 4, 16
SETTINGS = LikelihoodSpec(ode_steps=12, divergence="exact")
FAMILY = family_of("embedding_diffusion")
FAMILY_DEFINITION = definition_of("embedding_diffusion")


def silent(**settings: Any) -> Any:
    """A model whose trunk finds every token as likely, and its embeddings as codewords."""
    _, model = tiny_model(
        "embedding_diffusion", 30_000, VOCAB, 2.0, embedding_dim=3, block_size=BLOCK, **settings
    )
    with torch.no_grad():
        model.lm_head.weight.zero_()
        words = model.embeddings().double()
    return model, Codewords(words, math.exp(-model.config.log_snr / 2))


def texts(rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, VOCAB, (rows, LENGTH), generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("t", [0.0, 0.05, 0.4, 0.9, 1.0])
def test_the_velocity_is_the_flow_s_of_the_mixture(t: float) -> None:
    model, mixture = silent()
    z = torch.randn(2, LENGTH, 3, generator=torch.Generator().manual_seed(1))
    history = model.clean_history(model.embedded(texts(2)))
    found = model.noisy_pass(z, torch.full((2, 1), t), history)
    expected = mixture.velocity(z.reshape(-1, 1, 3), t).reshape(z.shape)
    torch.testing.assert_close(found.double(), expected, atol=5e-3, rtol=1e-3)


def test_equal_chances_cost_the_logarithm_of_the_vocabulary() -> None:
    model, _ = silent()
    found = FAMILY.likelihood(model, texts(6), SETTINGS, stream=Stream(0, 0, range(6)))
    per_token = float(found.nll_B.mean()) / LENGTH
    assert per_token == pytest.approx(math.log(VOCAB), abs=0.03)
    rate = float(found.diagnostics["rate_nats_per_token"].mean())
    distortion = float(found.diagnostics["distortion_nats_per_token"].mean())
    assert rate + distortion == pytest.approx(per_token, abs=1e-6)
    assert 0 < distortion < 0.1  # embeddings of 3 dimensions lie apart, as far as the noise goes
    bound = float(found.diagnostics["diffusion_bound_nats_per_token"].mean())
    assert bound == pytest.approx(math.log(VOCAB), abs=0.4)  # Monte Carlo over 8 times a block


def test_embeddings_that_have_collapsed_hold_nothing_and_cost_as_much() -> None:
    model, _ = silent()
    with torch.no_grad():
        model.embeddings.weight.copy_(model.embeddings.weight[:1].clone())
    found = FAMILY.likelihood(model, texts(6), SETTINGS, stream=Stream(0, 0, range(6)))
    assert float(found.diagnostics["rate_nats_per_token"].mean()) == pytest.approx(0.0, abs=0.02)
    distortion = float(found.diagnostics["distortion_nats_per_token"].mean())
    assert distortion == pytest.approx(math.log(VOCAB), abs=1e-4)
    unigram = math.log(VOCAB)
    values = {name: float(value.mean()) for name, value in found.diagnostics.items()}
    said = FAMILY_DEFINITION.problem(values, unigram)
    assert said is not None
    assert "collapsed" in said


def test_a_continuation_costs_its_blocks_behind_any_prompt_and_is_a_bound() -> None:
    model, _ = silent()
    found = FAMILY.conditional_nll(
        model,
        [[1, 2, 3], [4] * 8, []],
        [[5, 6, 0, 1], [2] * 6, [3] * 4],
        settings=SETTINGS.model_copy(update={"ode_steps": 24}),
        stream=Stream(0, 0, range(3)),
        eos_token_id=0,
    )
    blocks = torch.tensor([1, 2, 1], dtype=torch.float64)
    torch.testing.assert_close(found.nll_B, blocks * BLOCK * math.log(VOCAB), atol=0.3, rtol=0)
    assert found.kind == "bound"
    assert FAMILY.priced_tokens(model, 6) == 2 * BLOCK


def test_a_bound_behind_a_prompt_is_what_the_whole_text_s_adds_for_it() -> None:
    _, model = tiny_model(
        "embedding_diffusion", 30_000, VOCAB, 2.0, embedding_dim=3, block_size=BLOCK
    )
    text, settings = texts(3), LikelihoodSpec(ode_steps=3, diffusion_times=0)
    whole = FAMILY.likelihood(model, text, settings, stream=Stream(0, 0, range(3)))
    assert whole.by_position_BL is not None
    prompt = 2 * BLOCK
    found = FAMILY.conditional_nll(
        model,
        text[:, :prompt].tolist(),
        text[:, prompt:].tolist(),
        settings=settings,
        stream=Stream(0, 0, range(3)),
        eos_token_id=0,
    )
    expected = whole.by_position_BL[:, prompt:].sum(1)
    torch.testing.assert_close(found.nll_B, expected, atol=1e-4, rtol=1e-5)
