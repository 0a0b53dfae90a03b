"""Cola DLM's evidence bound (model.md, Eq. 23) and its importance-weighted form (model.md, Eq. 26).

The prior's density is the flow's, by the change of variables (model.md, Eq. 24) with the trace
exact or estimated (model.md, Eq. 25).
Shapes: B batch, L tokens, n latents, d latent width, s latents a block, b blocks, K samples of z0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cola.models.cola_dlm import ColaDLM
from cola.objectives.vae import Posterior
from cola.seeding import Stream
from cola.spec import LikelihoodSpec

VelocityField = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class ImportanceBound:
    """nll_B = -log (1/K) sum_k w_k (model.md, Eq. 26), and log w_k (B, K), in nats, float64."""

    nll_B: Tensor
    log_weights_BK: Tensor

    def effective_samples(self) -> Tensor:
        """(sum w)^2 / sum w^2, (B,), 1 to K; near 1, more samples would tighten the bound much."""
        share_BK = self.log_weights_BK.softmax(1)
        return 1 / share_BK.square().sum(1)


def evidence_by_block(
    model: ColaDLM,
    tokens_BL: Tensor,
    settings: LikelihoodSpec,
    *,
    stream: Stream,
    sample: int = 0,
    real_BL: Tensor | None = None,
) -> dict[str, Tensor]:
    """The bound's three parts by block of latents in nats, (B, b) float64 each.

    "reconstruction" is -log p(x|z0), "prior" -log p_psi(z0), "posterior" log q(z0|x), for one
    sample of z0, which differs by the number `sample`. The flow is solved with `ode_steps` Heun
    steps, each of two evaluations of the DiT with their backward passes. Tokens where `real_BL` is
    False are encoded but not predicted.
    """
    suffix = f"/{sample}" if sample else ""
    block = model.dit.config.block_size
    with torch.no_grad():
        posterior = Posterior(*model.vae.encoder(tokens_BL))
        latents, width = posterior.mean.shape[1:]
        z0 = posterior.sample(stream.normal(f"posterior{suffix}", latents, width))
        logits = model.vae.decoder(z0).float()
        token_nll = F.cross_entropy(logits.transpose(1, 2), tokens_BL, reduction="none")
        if real_BL is not None:
            token_nll = token_nll * real_BL
        z = model.to_dit(z0)
        history = model.dit.clean_history(z)

    def velocity(z_Bnd: Tensor, t: float) -> Tensor:
        t_BK = z_Bnd.new_full((len(z_Bnd), 1), t)
        return model.dit.noisy_pass(z_Bnd, t_BK, history).float()

    probe = trace_probe(settings.probe, f"probe{suffix}", (latents, width), stream=stream)
    log_prior_Bb = flow_log_density_by_block(
        velocity,
        z,
        settings.ode_steps,
        divergence=settings.divergence,
        probe_Bnd=probe,
        block=block,
    )
    # The density of z0 rather than of z: change of variables of the border (model.md, Eq. 18).
    log_prior_Bb = log_prior_Bb + block * width * math.log(model.vae.config.scaling_factor)
    return {
        "reconstruction": _by_block(token_nll.double(), model.tokens_per_block),
        "prior": -log_prior_Bb,
        "posterior": _by_block(posterior.log_density(z0).double(), block),
    }


def trace_probe(kind: str, purpose: str, shape_nd: tuple[int, int], *, stream: Stream) -> Tensor:
    """Probe e (B, n, d) of model.md, Eq. 25: random signs (rademacher) or N(0, I) (gaussian).

    Both have E[e e^T] = I; signs give the estimate less variance.
    """
    if kind == "gaussian":
        return stream.normal(purpose, *shape_nd)
    return stream.uniform(purpose, *shape_nd).round() * 2 - 1


def importance_weighted_bound(
    model: ColaDLM, tokens_BL: Tensor, settings: LikelihoodSpec, *, stream: Stream
) -> ImportanceBound:
    """Upper bound of -log p(x) from K = `importance_samples` samples of z0 (model.md, Eq. 26).

    K = 1 is the evidence bound; the bound tightens with K.
    """
    samples, columns = settings.importance_samples, []
    for sample in range(samples):
        by_block = evidence_by_block(model, tokens_BL, settings, stream=stream, sample=sample)
        columns.append(-torch.stack(list(by_block.values())).sum((0, 2)))
    log_weights_BK = torch.stack(columns, dim=1)
    nll_B = math.log(samples) - log_weights_BK.logsumexp(1)
    return ImportanceBound(nll_B, log_weights_BK)


def flow_log_density_by_block(
    velocity: VelocityField,
    z_Bnd: Tensor,
    steps: int,
    *,
    divergence: str,
    probe_Bnd: Tensor,
    block: int,
) -> Tensor:
    """log p(z) by block in nats, (B, b) float64 (model.md, Eq. 24), in `steps` Heun steps.

    The blocks of a sequence are solved side by side: a block's velocity depends on its own noisy
    latents and on clean history, so each block has its own divergence.
    """

    def slope(z: Tensor, t: float) -> tuple[Tensor, Tensor]:
        return velocity_and_divergence(
            velocity, z, t, divergence=divergence, probe_Bnd=probe_Bnd, block=block
        )

    z, h = z_Bnd, 1.0 / steps
    integral_Bb = z.new_zeros(len(z), z.shape[1] // block, dtype=torch.float64)
    for step in range(steps):
        v, div_Bb = slope(z, step * h)
        v_end, div_end_Bb = slope(z + h * v, (step + 1) * h)
        z = z + 0.5 * h * (v + v_end)
        integral_Bb = integral_Bb + 0.5 * h * (div_Bb + div_end_Bb)
    log_normal_Bn = -0.5 * (z.double().square() + math.log(2 * math.pi)).sum(-1)
    return _by_block(log_normal_Bn, block) + integral_Bb


def velocity_and_divergence(
    velocity: VelocityField,
    z_Bnd: Tensor,
    t: float,
    *,
    divergence: str,
    probe_Bnd: Tensor,
    block: int,
) -> tuple[Tensor, Tensor]:
    """v (B, n, d) and div v by block (B, b), exact or estimated with the probe."""
    with torch.enable_grad():
        z_Bnd = z_Bnd.detach().requires_grad_(True)
        v = velocity(z_Bnd, t)
        if divergence == "hutchinson":
            (product,) = torch.autograd.grad(v, z_Bnd, probe_Bnd)
            div_Bb = _by_block((product * probe_Bnd).double().sum(-1), block)
        else:
            div_Bb = exact_trace(v, z_Bnd, block)
    return v.detach(), div_Bb


def exact_trace(v_Bnd: Tensor, z_Bnd: Tensor, block: int) -> Tensor:
    """sum_i dv_i / dz_i by block (B, b), in one backward pass per coordinate of a block.

    No block's velocity depends on another block, so a pass serves that coordinate in all blocks.
    """
    v_Bbsd = v_Bnd.unflatten(1, (-1, block))
    trace_Bb = z_Bnd.new_zeros(v_Bbsd.shape[:2], dtype=torch.float64)
    for latent in range(block):
        for channel in range(v_Bnd.shape[-1]):
            component = v_Bbsd[:, :, latent, channel].sum()
            (row,) = torch.autograd.grad(component, z_Bnd, retain_graph=True)
            own_Bb = row.unflatten(1, (-1, block))[:, :, latent, channel].double()
            trace_Bb = trace_Bb + own_Bb
    return trace_Bb


def _by_block(value_Bn: Tensor, block: int) -> Tensor:
    """Sums over each block, (B, b)."""
    return value_Bn.unflatten(1, (-1, block)).sum(-1)
