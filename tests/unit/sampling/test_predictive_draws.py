"""Draws of the next tokens behind a prompt against exact distributions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cola.evaluation.predictive_scores import brier_of_draws, by_draws, log_mean_exp
from cola.likelihood.next_token import conditional_nll
from cola.models.kv_cache import KVCache
from cola.sampling.ode import time_grid
from cola.sampling.predictive import PredictiveDraws
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.factories import tiny_model
from tests.sizes import FAMILIES, SMALL
from tests.unit.likelihood.known_priors import Codewords

VOCAB, EOS = 12, 11


def settings(tokens: int, **changes: Any) -> GenerationSpec:
    return GenerationSpec.parse({"max_new_tokens": tokens, "steps": 4} | changes).ancestral()


def texts(count: int, length: int, vocab: int = VOCAB) -> Tensor:
    return torch.randint(0, vocab, (count, length), generator=torch.Generator().manual_seed(1))


def drawn(
    name: str, model: Any, text: Tensor, tokens: int, draws: range, **changes: Any
) -> PredictiveDraws:
    family, _ = tiny_model(name, 30_000, VOCAB, **SMALL.get(name, {}))
    found: PredictiveDraws = family.predictive_draws(
        model,
        text[:, :-tokens],
        text[:, -tokens:],
        settings(tokens, **changes),
        draws=draws,
        stream=Stream(0, 0, range(len(text))),
        eos_token_id=EOS,
    )
    return found


def test_ar_s_brier_by_draws_is_its_exact_one() -> None:
    family, model = tiny_model("ar", 30_000, VOCAB, 4.0)
    text = texts(150, 9)
    found = drawn("ar", model, text, 1, range(12))
    exact = family.next_tokens(model, text[:, :-1], text[:, -1:])
    assert exact is not None
    by_draw = np.array(
        [
            brier_of_draws(tokens_MN.numpy(), truth_N.numpy())
            for tokens_MN, truth_N in zip(found.tokens_BMN, text[:, -1:], strict=True)
        ]
    )
    off = by_draw - exact.brier_BN[:, 0].numpy()
    assert abs(off.mean()) < 3 * off.std() / math.sqrt(len(off))
    assert off.std() > 0.05  # a tight comparison of what is not the same number


def test_ar_s_exact_predictions_are_its_conditional_likelihood() -> None:
    family, model = tiny_model("ar", 30_000, VOCAB, 4.0)
    text = texts(3, 9)
    exact = family.next_tokens(model, text[:, :5], text[:, 5:])
    assert exact is not None
    nll_B, _ = conditional_nll(model, text[:, :5].tolist(), text[:, 5:].tolist())
    # The start token, which is never made, has next to no part in either.
    torch.testing.assert_close(-exact.log_p_BN.sum(1), nll_B, rtol=0.05, atol=0.0)


def test_ar_s_later_places_are_marginals() -> None:
    _, model = tiny_model("ar", 30_000, VOCAB, 4.0)
    family, _ = tiny_model("ar", 30_000, VOCAB)
    text = texts(1, 6)
    found = drawn("ar", model, text, 2, range(600))
    # p(second) = sum over first tokens of p(first) p(second | first), by enumeration.
    every = torch.arange(VOCAB)
    prompt = text[:, :4].expand(VOCAB, -1)
    first = family.next_tokens(model, prompt, every[:, None])
    last = text[0, 5].expand(VOCAB, 1)
    second = family.next_tokens(model, torch.cat([prompt, every[:, None]], 1), last)
    assert first is not None
    assert second is not None
    exact = float((first.log_p_BN.exp() * second.log_p_BN.exp()).sum())
    each = found.marginal_BMN[0, :, 1].exp() if found.marginal_BMN is not None else torch.zeros(1)
    assert abs(float(each.mean()) - exact) < 3 * float(each.std()) / math.sqrt(600)


@torch.no_grad()
def test_llada_s_mean_over_orders_is_its_sampler_s_probability() -> None:
    family, model = tiny_model("llada", 30_000, VOCAB, 4.0)
    text, length = texts(1, 8), 5
    found = drawn("llada", model, text, 3, range(200))
    mask = model.config.mask_token_id
    chains = []
    for order in itertools.permutations(range(3)):
        given, log_p = text.clone(), 0.0
        given[0, length:] = mask
        for place in order:
            row = model(given)[0, length + place].double().log_softmax(-1)
            log_p += float(row[text[0, length + place]])
            given[0, length + place] = text[0, length + place]
        chains.append(log_p)
    assert found.joint_BMN is not None
    joint_M = found.joint_BMN[0].sum(1).numpy()
    assert {round(value, 4) for value in joint_M} == {round(value, 4) for value in chains}
    exact = float(log_mean_exp(np.array(chains)))
    assert float(log_mean_exp(joint_M)) == pytest.approx(exact, abs=0.02 * abs(exact))
    assert not found.in_order
    # What is drawn is right as often as its probability says.
    right = (found.tokens_BMN[0] == text[0, length:]).double().mean(0)
    assert found.marginal_BMN is not None
    expected = found.marginal_BMN[0].exp().mean(0)
    assert (right - expected).abs().max() < 3 * math.sqrt(0.25 / 200)
    assert family.next_tokens(model, text[:, :5], text[:, 5:]) is None


class CodewordPrior:
    """Makes a Cola DLM one whose prior and decoder are known: each latent a codeword with noise,
    whatever is before it, and each token the codeword that the decoder finds likely."""

    def __init__(self, model: Any, prior: Codewords, steps: int) -> None:
        self.prior, self._grid = prior, time_grid("uniform", steps)
        model.dit.denoise = self.denoise
        model.vae.decoder.write = self.write

    def denoise(self, z: Tensor, timesteps: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        times = sorted(self._grid[:-1])
        v = self.prior.velocity(z, times[timesteps._index]).to(z)
        return v, v

    def write(self, z: Tensor, _: KVCache) -> Tensor:
        return self.logits(z)

    def logits(self, z: Tensor) -> Tensor:
        """Codewords twice as far as the posterior has them: an overconfident decoder."""
        square = (z[..., None, :].double() - self.prior.words_Kd).square().sum(-1)
        return (-square / self.prior.scale**2).float()

    def probability(self) -> Tensor:
        """p(token), (K,), by a million exact draws of the prior."""
        return self.logits(self.prior.sample(1_000_000, seed=3)).double().softmax(-1).mean((0, 1))


@pytest.mark.slow
def test_cola_s_nll_of_a_known_prior_is_within_one_per_cent_at_64_draws() -> None:
    steps, words = 32, 6
    torch.manual_seed(0)
    _, model = tiny_model("cola", 30_000, words, latent_dim=2, block_size=1)
    prior = CodewordPrior(model, Codewords.drawn(2, words, 0.0), steps)
    exact_V = -prior.probability().log()
    text = torch.cat([torch.zeros(300, 4, dtype=torch.long), texts(300, 1, words)], 1)
    family, _ = tiny_model("cola", 30_000, words, latent_dim=2, block_size=1)
    found = family.predictive_draws(
        model,
        text[:, :4],
        text[:, 4:],
        settings(1, steps=steps),
        draws=range(64),
        stream=Stream(0, 0, range(300)),
        eos_token_id=0,
    )
    joint_BM = found.joint_BMN.sum(2).numpy()
    nll = float(np.mean([by_draws(joint_M)[64] for joint_M in joint_BM]))
    exact = float(exact_V[text[:, 4]].mean())
    assert nll == pytest.approx(exact, rel=0.01)
    one = float(np.mean([by_draws(joint_M)[1] for joint_M in joint_BM]))
    assert one > 1.2 * exact  # the bound of single draws is far off
    expected = found.marginal_BMN.exp().mean()
    right = (found.tokens_BMN == text[:, None, 4:]).double().mean()
    assert abs(float(right - expected)) < 3 * math.sqrt(0.25 / found.tokens_BMN.numel())


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_follow_from_their_number_and_add_up(name: str) -> None:
    _, model = tiny_model(name, 30_000, VOCAB, 3.0, **SMALL.get(name, {}))
    text = texts(2, 14)  # of Cola DLM the prompt of 11 fills a block and part of the next
    together = drawn(name, model, text, 3, range(4))
    parts = [drawn(name, model, text, 3, draws) for draws in (range(2), range(2, 4))]
    assert torch.equal(together.tokens_BMN, torch.cat([part.tokens_BMN for part in parts], 1))
    sums = [part.probability_BNV for part in parts]
    assert together.probability_BNV is not None
    torch.testing.assert_close(together.probability_BNV, sums[0] + sums[1], rtol=1e-4, atol=1e-6)
    one_BN = together.probability_BNV.sum(-1) / 4
    torch.testing.assert_close(one_BN, torch.ones_like(one_BN))
    assert together.tokens_BMN[0].unique(dim=0).shape[0] > 1


def test_blocks_behind_the_text_s_own_tokens_are_those_of_draws_that_made_them() -> None:
    """Embedding diffusion: a draw whose first block is the text's goes on as the estimate does."""
    family, model = tiny_model("embedding_diffusion", 30_000, 3, 6.0, embedding_dim=2, block_size=4)
    text = texts(4, 10, 3)  # a prompt of 6, 2 tokens in its block and 2 in the next
    found = family.predictive_draws(
        model,
        text[:, :6],
        text[:, 6:],
        settings(4),
        draws=range(16),
        stream=Stream(0, 0, range(4)),
        eos_token_id=0,
    )
    assert found.marginal_BMN is not None
    assert found.joint_BMN is not None
    own_BM = (found.tokens_BMN[:, :, :2] == text[:, None, 6:8]).all(-1)
    assert 0 < own_BM.sum() < own_BM.numel()
    torch.testing.assert_close(
        found.joint_BMN[own_BM], found.marginal_BMN[own_BM], atol=1e-4, rtol=1e-4
    )
    differ = (found.joint_BMN - found.marginal_BMN).abs()[~own_BM]
    assert differ[:, :2].max() < 1e-6
    assert differ[:, 2:].max() > 0.01


def test_a_prompt_that_splits_a_patch_loses_its_first_tokens() -> None:
    family, model = tiny_model("cola", 30_000, VOCAB, 3.0, latent_dim=4, block_size=4, patch_size=2)

    def made(text: Tensor) -> PredictiveDraws:
        return family.predictive_draws(
            model,
            text[:, :-3],
            text[:, -3:],
            settings(3),
            draws=range(3),
            stream=Stream(0, 0, range(len(text))),
            eos_token_id=EOS,
        )

    text = texts(2, 10)
    split, whole = made(text), made(text[:, 1:])
    assert (split.left_out, whole.left_out) == (1, 0)
    assert torch.equal(split.tokens_BMN, whole.tokens_BMN)
