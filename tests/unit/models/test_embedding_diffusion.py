"""Embedding diffusion: one pass over all blocks, block by block behind a cache, and its loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cola.models.head import HeadLayout, Scored
from cola.objectives.embedding_diffusion import embedding_draws, embedding_loss
from cola.seeding import Stream
from cola.spec.objectives import FlowSpec
from tests.factories import tiny_model

VOCAB, BLOCK, LENGTH, D = 20, 4, 16, 4


def make() -> Any:
    _, model = tiny_model(
        "embedding_diffusion", 30_000, VOCAB, 3.0, embedding_dim=D, block_size=BLOCK
    )
    return model


def texts(rows: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, VOCAB, (rows, LENGTH), generator=generator)


@torch.no_grad()
def test_training_pass_equals_cached_inference() -> None:
    model, zt = make(), torch.randn(2, LENGTH, D, generator=torch.Generator().manual_seed(2))
    embedded = model.embedded(texts())
    t_Bb = torch.rand(2, LENGTH // BLOCK, generator=torch.Generator().manual_seed(3))
    together = model.noisy_pass(zt, t_Bb, model.clean_history(embedded))
    cache, found = model.new_cache(2, LENGTH, embedded), []
    for block in range(LENGTH // BLOCK):
        span = slice(block * BLOCK, (block + 1) * BLOCK)
        timesteps, rotary = model.timesteps(t_Bb[:, block : block + 1]), model.block_rotary(cache)
        found.append(model.denoise(zt[:, span], timesteps, rotary, cache=cache, guided=False)[0])
        model.commit(embedded[:, span], cache, [BLOCK, BLOCK])
    assert together.std() > 0.1
    torch.testing.assert_close(together, torch.cat(found, 1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_both_velocities_of_guidance_are_those_of_their_own_passes() -> None:
    model, z = make(), torch.randn(2, BLOCK, D, generator=torch.Generator().manual_seed(2))
    cache, empty = (model.new_cache(2, 2 * BLOCK, z) for _ in range(2))
    model.commit(model.embedded(texts()[:, :BLOCK]), cache, [BLOCK, BLOCK])
    timesteps = model.timesteps(torch.tensor([[0.3], [0.7]]))

    def velocities(part: Any, guided: bool) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = model.denoise(
            z, timesteps, model.block_rotary(part), cache=part, guided=guided
        )
        return found

    behind, alone = velocities(cache, True)
    torch.testing.assert_close(behind, velocities(cache, False)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, velocities(empty, False)[0], atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_cross_entropy_of_trunk_and_latent_together() -> None:
    """By the plain formula, prompts left out; and its gradient reaches the embeddings."""
    model, tokens, objective = make(), texts(), FlowSpec(prompt_block_probability=0.5)
    draws = embedding_draws(
        model, objective, tokens, stream=Stream(0, 0, range(2)), positions=range(2), global_size=2
    )
    assert draws["prompt_Bn"].any()
    loss = embedding_loss(model, tokens, draws)["loss"]
    embedded = model.embedded(tokens)
    t_Bn1 = draws["t_Bb"].repeat_interleave(BLOCK, 1)[..., None]
    variance = (1 - t_Bn1) ** 2 * model.own_variance + t_Bn1**2
    zt = (1 - t_Bn1) * embedded + variance.sqrt() * draws["z1"]
    zt = torch.where(draws["prompt_Bn"][..., None], embedded, zt)
    features = model.noisy_features(
        zt, draws["t_Bb"], model.clean_history(embedded), clean_Bn=draws["prompt_Bn"]
    )
    logits = model.lm_head(features) + (1 - t_Bn1) / variance * zt @ model.embeddings().T
    nll_BL = -logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    expected = (nll_BL * ~draws["prompt_Bn"]).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.embeddings.weight.grad.abs().sum() > 0


def test_costs_in_chunks_are_those_of_whole_logits() -> None:
    model = make()
    features = torch.randn(12, model.config.txt_dim, requires_grad=True)
    evidence = torch.randn(12, D, requires_grad=True)
    tokens, weights = torch.randint(0, VOCAB, (12,)), torch.rand(12)
    found = []
    for layout in (None, HeadLayout(chunk=5, piece=2)):
        scored = Scored(tokens, "sum", weights, layout=layout)
        cost, _ = model.lm_head(features, scored, (evidence, model.embeddings()))
        gradients = torch.autograd.grad(cost, [features, evidence, model.embeddings.weight])
        found.append((cost, *gradients))
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("log_snr", [2.0, 5.0])
def test_embeddings_round_to_their_own_tokens(log_snr: float) -> None:
    model = make()
    model.config.log_snr = log_snr
    mean, log_variance = model.codec.encoder(texts())
    assert torch.equal(model.codec.decoder.logits(mean).argmax(-1), texts())
    assert log_variance.unique().tolist() == pytest.approx([-log_snr])
    torch.testing.assert_close(mean.square().mean(-1), torch.ones(2, LENGTH), atol=1e-4, rtol=0)
