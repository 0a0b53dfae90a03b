"""Cola DLM's bound: by block, conditional, importance weighted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cola.errors import SpecError
from cola.families.registry import family_of
from cola.likelihood.flow_density import exact_trace, flow_density_by_block
from cola.likelihood.latent_ode import evidence_by_block, importance_weighted_bound
from cola.likelihood.prior_density import trace_probe
from cola.models.cola_dlm import ColaDLM
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from tests.sizes import size_model
from tests.unit.likelihood.sums import conditional_evidence, evidence_bound

VOCAB, BLOCK = 30, 4
EXACT = LikelihoodSpec(ode_steps=2, divergence="exact")
PROBED = LikelihoodSpec(ode_steps=2)


def model(patch_size: int = 1) -> ColaDLM:
    torch.manual_seed(0)
    spec = size_model("cola", 30_000, VOCAB, latent_dim=2, block_size=BLOCK, patch_size=patch_size)
    built: ColaDLM = family_of("cola").build(spec).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    built.vae.config.scaling_factor, built.vae.config.shifting_factor = 0.8, 0.1
    return built


def tokens(batch: int = 3, length: int = 16) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


class PrefixStream(Stream):
    """A shorter sequence gets the first of a longer one's numbers."""

    longest = 16

    def normal(self, purpose: str, *shape: int) -> Tensor:
        return super().normal(purpose, self.longest, *shape[1:])[:, : shape[0]]

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        return super().uniform(purpose, self.longest, *shape[1:])[:, : shape[0]]


@pytest.mark.parametrize("settings", [PROBED, EXACT], ids=["hutchinson", "exact"])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_a_response_costs_the_whole_minus_its_prompt(
    settings: LikelihoodSpec, patch_size: int
) -> None:
    built, text, prompt = model(patch_size), tokens(), 8
    stream = PrefixStream(0, 0, range(3))
    whole = evidence_bound(built, text, settings, stream)
    before = evidence_bound(built, text[:, :prompt], settings, stream)
    after = conditional_evidence(built, text, prompt, settings, stream)
    for name, value in after.items():
        torch.testing.assert_close(value, whole[name] - before[name], atol=1e-3, rtol=0)
        assert (value != whole[name]).all()


def test_each_part_sums_over_its_blocks() -> None:
    stream = Stream(0, 0, range(3))
    by_block = evidence_by_block(model(), tokens(), PROBED, stream=stream).parts
    assert {value.shape for value in by_block.values()} == {(3, 4)}
    for name, value in evidence_bound(model(), tokens(), PROBED, stream).items():
        torch.testing.assert_close(value, by_block[name].sum(1))


def test_the_trace_by_block_is_the_jacobian_s() -> None:
    built, text = model(), tokens(1, 8)
    with torch.no_grad():
        z = built.to_dit(built.vae.encoder(text)[0])
        history = built.dit.clean_history(z)

    def velocity(z_nd: Tensor) -> Tensor:
        return built.dit.noisy_pass(z_nd[None], torch.full((1, 1), 0.4), history)[0]

    jacobian = torch.autograd.functional.jacobian(velocity, z[0])  # (n, d, n, d)
    square = jacobian.reshape(16, 16)
    expected = square.diagonal().view(2, -1).sum(1).double()
    # What the shared passes rely on: no block's velocity depends on another block.
    assert square[:8, 8:].abs().max() == 0
    assert square[8:, :8].abs().max() == 0
    z_grad = z.clone().requires_grad_(True)
    found = exact_trace(velocity(z_grad[0])[None], z_grad, BLOCK)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_blocks_of_a_gaussian_flow_have_their_own_densities() -> None:
    """z0 ~ N(m, sigma^2) per block in closed form, with a different sigma for each block."""
    sigma = torch.tensor([0.4, 0.4, 1.7, 1.7])[None, :, None]
    mean = 0.3

    def velocity(z: Tensor, t: float) -> Tensor:
        variance = (1 - t) ** 2 * sigma**2 + t**2
        return (z - (1 - t) * mean) * (t - (1 - t) * sigma**2) / variance - mean

    generator = torch.Generator().manual_seed(0)
    z0 = mean + sigma * torch.randn(16, 4, 3, generator=generator)
    probe = torch.rand(16, 4, 3, generator=generator).round() * 2 - 1
    found = flow_density_by_block(
        velocity, z0, 16, divergence="hutchinson", probe_Bnd=probe, block=2, scale=0.4
    ).extrapolated
    log_p = torch.distributions.Normal(mean, sigma).log_prob(z0)
    truth = log_p.unflatten(1, (2, 2)).sum((2, 3)).double()
    torch.testing.assert_close(found, truth, atol=0.05, rtol=0.01)
    assert found.mean(0).tolist() == pytest.approx(truth.mean(0).tolist(), rel=0.01)


def test_one_importance_sample_is_the_evidence_bound() -> None:
    stream = Stream(0, 0, range(3))
    found = importance_weighted_bound(model(), tokens(), PROBED, stream=stream)
    parts = evidence_bound(model(), tokens(), PROBED, stream)
    torch.testing.assert_close(found.nll_B, torch.stack(list(parts.values())).sum(0))


def test_the_bound_tightens_with_more_samples() -> None:
    rows, samples = 24, 8
    text = tokens(1, 8).repeat(rows, 1)
    settings = EXACT.model_copy(update={"importance_samples": samples})
    found = importance_weighted_bound(model(), text, settings, stream=Stream(0, 0, range(rows)))
    log_w = found.log_weights_BK

    def bound(count: int) -> Tensor:
        return (math.log(count) - log_w.unflatten(1, (-1, count)).logsumexp(2)).flatten()

    torch.testing.assert_close(found.nll_B, bound(samples))
    means = [float(bound(count).mean()) for count in (1, 2, 4, samples)]
    # The same weights grouped: by Jensen every doubling lowers the mean, whatever the draws. What
    # is tested beyond: samples differ, and the gain is more than the standard error of one sample.
    assert means == sorted(means, reverse=True)
    assert means[0] - means[-1] > 2 * float(bound(1).std()) / math.sqrt(rows * samples)
    effective = found.effective_samples()
    assert (effective >= 1).all()
    assert (effective < samples - 1e-3).all()


def test_several_samples_with_a_noisy_divergence_are_refused() -> None:
    with pytest.raises(SpecError, match="use divergence='exact'"):
        LikelihoodSpec.parse({"importance_samples": 2})


def test_the_family_s_bound_is_the_importance_weighted_one_where_asked() -> None:
    built, text, stream = model(), tokens(), Stream(0, 0, range(3))
    several = EXACT.model_copy(update={"importance_samples": 4})
    one = family_of("cola").likelihood(built, text, EXACT, stream=stream)
    found = family_of("cola").likelihood(built, text, several, stream=stream)
    expected = importance_weighted_bound(built, text, several, stream=stream)
    assert torch.equal(found.nll_B, expected.nll_B)
    assert (found.diagnostics["effective_samples"] <= 4).all()
    assert (found.nll_B != one.nll_B).all()


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_probes_estimate_the_trace_without_bias(kind: str) -> None:
    """E[e^T A e] = tr A over many samples, for a matrix that is not symmetric."""
    matrix = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    probe = trace_probe(kind, "probe", (3, 2), stream=Stream(0, 0, range(4000))).flatten(1)
    found = ((probe @ matrix.T) * probe).sum(1)
    error = float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) == pytest.approx(float(matrix.trace()), abs=4 * error)
    assert probe.abs().max() > 1 if kind == "gaussian" else set(probe.unique().tolist()) == {-1, 1}
