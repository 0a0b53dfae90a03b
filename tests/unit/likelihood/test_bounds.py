"""Bounds against cases whose answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from cola.families.llada.spec import LLaDAModelSpec
from cola.families.registry import definition_of, family_of
from cola.likelihood.masked_bound import chain_rule_nll, masked_samples, mean_and_error
from cola.models.transformer import LLaDAModel
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from tests.sizes import size_model
from tests.unit.likelihood.sums import evidence_bound, flow_log_density


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_the_flow_density_of_a_gaussian(sigma: float, divergence: str) -> None:
    """z0 ~ N(m, sigma^2) has the velocity E[z1 - z0 | z_t] in closed form (straight paths)."""
    mean = 0.5

    def velocity(z: Tensor, t: float) -> Tensor:
        variance = (1 - t) ** 2 * sigma**2 + t**2
        centred = z - (1 - t) * mean
        return centred * (t - (1 - t) * sigma**2) / variance - mean

    generator = torch.Generator().manual_seed(0)
    z0 = mean + sigma * torch.randn(16, 3, 2, generator=generator)
    probe = torch.rand(16, 3, 2, generator=generator).round() * 2 - 1
    found = flow_log_density(velocity, z0, 64, divergence=divergence, probe_Bnd=probe)
    truth = torch.distributions.Normal(mean, sigma).log_prob(z0).flatten(1).sum(1).double()
    assert found.mean() == pytest.approx(float(truth.mean()), rel=0.01)
    torch.testing.assert_close(found, truth, atol=0.05, rtol=0.01)


def test_hutchinson_agrees_with_the_exact_trace_on_average() -> None:
    family = family_of("cola")
    torch.manual_seed(0)
    model = family.build(size_model("cola", 60_000, 50, latent_dim=2, block_size=4)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    tokens = torch.randint(0, 50, (1, 8)).repeat(64, 1)
    same = {"stream": Stream(0, 0, [7] * 64)}
    exact = evidence_bound(
        model, tokens[:1], LikelihoodSpec(ode_steps=3, divergence="exact"), Stream(0, 0, [7])
    )["prior"]
    # The probe is the only thing that differs between the rows.

    class OtherProbes(Stream):
        def uniform(self, purpose: str, *shape: int) -> Tensor:
            return Stream(0, 0, range(64)).uniform(purpose, *shape)

    settings = LikelihoodSpec(ode_steps=3, divergence="hutchinson")
    probed = evidence_bound(model, tokens, settings, OtherProbes(0, 0, same["stream"].sample_ids))
    error = float(probed["prior"].std()) / 8
    assert abs(float(probed["prior"].mean() - exact[0])) < 4 * error + 1e-3


def tiny_llada() -> LLaDAModel:
    torch.manual_seed(0)
    spec = LLaDAModelSpec(hidden_size=16, ffn_size=32, num_layers=2, num_heads=2, vocab_size=3)
    model: LLaDAModel = family_of("llada").build(spec).eval()  # type: ignore[assignment]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    return model


@torch.no_grad()
def enumerated_bound(model: LLaDAModel, tokens_L: Tensor) -> float:
    """E over mask counts k ~ U{1..L} and over all masks of k tokens of (L / k) sum of CE."""
    length, total = len(tokens_L), 0.0
    for count in range(1, length + 1):
        masks = list(itertools.combinations(range(length), count))
        for places in masks:
            hidden = tokens_L.clone()
            hidden[list(places)] = model.config.mask_token_id
            log_p = model(hidden[None]).log_softmax(-1)[0]
            nll = -sum(float(log_p[place, tokens_L[place]]) for place in places)
            total += length / count * nll / len(masks) / length
    return total


@torch.no_grad()
def test_the_masked_bound_against_enumeration() -> None:
    model, tokens = tiny_llada(), torch.tensor([0, 2, 1, 1, 0])
    truth = enumerated_bound(model, tokens)
    rows = 200
    samples = masked_samples(model, tokens.repeat(rows, 1), 8, stream=Stream(0, 0, range(rows)))
    found, error = mean_and_error(samples.sum(2))
    standard_error = float(found.std()) / math.sqrt(rows)
    assert abs(float(found.mean()) - truth) < 4 * standard_error
    # The reported error ignores stratification: never smaller than the true one, by much.
    assert float(error.mean()) > 0.8 * float(found.std())


@torch.no_grad()
def test_the_masked_bound_bounds_every_order_of_unmasking() -> None:
    """The bound is the mean NLL over orders, so some order's chain rule is at most it."""
    model, tokens = tiny_llada(), torch.tensor([0, 2, 1, 1])
    nlls = []
    for order in itertools.permutations(range(4)):
        hidden, nll = torch.full((4,), model.config.mask_token_id), 0.0
        for place in order:
            nll -= float(model(hidden[None]).log_softmax(-1)[0, place, tokens[place]])
            hidden[place] = tokens[place]
        nlls.append(nll)
    assert sum(nlls) / len(nlls) == pytest.approx(enumerated_bound(model, tokens), rel=1e-4)
    assert min(nlls) < enumerated_bound(model, tokens)


@torch.no_grad()
def test_the_chain_rule_is_a_distribution_and_one_order_of_the_bound() -> None:
    """Over all 3^4 sequences its probabilities sum to 1; for one, it is the enumerated order."""
    model = tiny_llada()
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    nll = chain_rule_nll(model, every).sum(1)
    assert float((-nll).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    tokens = torch.tensor([0, 2, 1, 1])
    hidden, expected = torch.full((4,), model.config.mask_token_id), 0.0
    for place in range(4):
        expected -= float(model(hidden[None]).log_softmax(-1)[0, place, tokens[place]])
        hidden[place] = tokens[place]
    family = family_of("llada")
    settings = LikelihoodSpec(masked="chain_rule")
    found = family.likelihood(model, tokens[None], settings, stream=Stream(0, 0, [0]))
    assert float(found.nll_B[0]) == pytest.approx(expected, rel=1e-5)
    assert definition_of(family.name).nll_kind(None, settings) == "exact"
    assert definition_of(family.name).nll_kind(None, LikelihoodSpec()) == "bound"
