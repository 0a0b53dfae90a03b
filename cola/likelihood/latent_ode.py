"""The evidence bound with the prior's exact change of variables (section 5).

log p(x) >= E_q[log p(x|z0) + log p_psi(z0) - log q(z0|x)];
log p_psi(z0) = log N(z(1); 0, I) + integral_0^1 div v(z(t), t) dt along dz/dt = v.
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
    """-log (1/K) sum_k w_k per sequence (B,), and log w_k (B, K), in nats, float64."""

    nll_B: Tensor
    log_weights_BK: Tensor

    def effective_samples(self) -> Tensor:
        """(sum w)^2 / sum w^2 per sequence, 1 .. K: near 1, more samples would tighten it much."""
        share_BK = self.log_weights_BK.softmax(1)
        return 1 / share_BK.square().sum(1)


def evidence_by_block(
    model: ColaDLM,
    tokens_BL: Tensor,
    settings: LikelihoodSpec,
    stream: Stream,
    sample: int = 0,
    real_BL: Tensor | None = None,
) -> dict[str, Tensor]:
    """The bound's parts by block of latents; each (B, b) float64.

    reconstruction = -log p(x|z0), prior = -log p_psi(z0), posterior = log q(z0|x), for one sample
    of z0 (a different one for every number `sample`). The prior is the flow's as solved with
    `ode_steps` Heun steps, of two evaluations of the DiT with gradient each. Tokens where
    `real_BL` is False are given to the encoder and not predicted.
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

    probe = trace_probe(settings.probe, f"probe{suffix}", (latents, width), stream)
    log_prior_Bb = flow_log_density_by_block(
        velocity, z, settings.ode_steps, settings.divergence, probe, block
    )
    # Densities of z0 = z / scaling_factor + shift: change of variables of the border.
    log_prior_Bb = log_prior_Bb + block * width * math.log(model.vae.config.scaling_factor)
    return {
        "reconstruction": _by_block(token_nll.double(), model.tokens_per_block),
        "prior": -log_prior_Bb,
        "posterior": _by_block(posterior.log_density(z0).double(), block),
    }


def trace_probe(kind: str, purpose: str, shape_nd: tuple[int, int], stream: Stream) -> Tensor:
    """e (B, n, d) with E[e e^T] = I: signs (rademacher, of less variance) or N(0, I) (gaussian)."""
    if kind == "gaussian":
        return stream.normal(purpose, *shape_nd)
    return stream.uniform(purpose, *shape_nd).round() * 2 - 1


def importance_weighted_bound(
    model: ColaDLM, tokens_BL: Tensor, settings: LikelihoodSpec, stream: Stream
) -> ImportanceBound:
    """-log p(x) <= -log (1/K) sum_k w_k on average, w = p(x|z0) p_psi(z0) / q(z0|x) (IWAE).

    K = `importance_samples`: 1 is the evidence bound, and the bound tightens with K.
    """
    samples, columns = settings.importance_samples, []
    for sample in range(samples):
        by_block = evidence_by_block(model, tokens_BL, settings, stream, sample)
        columns.append(-torch.stack(list(by_block.values())).sum((0, 2)))
    log_weights_BK = torch.stack(columns, dim=1)
    nll_B = math.log(samples) - log_weights_BK.logsumexp(1)
    return ImportanceBound(nll_B, log_weights_BK)


def flow_log_density(
    velocity: VelocityField, z_Bnd: Tensor, steps: int, divergence: str, probe_Bnd: Tensor
) -> Tensor:
    """log p(z) (B,) of any flow: the whole sequence as one block."""
    length = z_Bnd.shape[1]
    return flow_log_density_by_block(velocity, z_Bnd, steps, divergence, probe_Bnd, length)[:, 0]


def flow_log_density_by_block(
    velocity: VelocityField,
    z_Bnd: Tensor,
    steps: int,
    divergence: str,
    probe_Bnd: Tensor,
    block: int,
) -> Tensor:
    """log p(z) by block, (B, b) float64, of the flow that ends in N(0, I) at t = 1, by Heun.

    The blocks of a sequence are solved side by side: a block's velocity depends on its own noisy
    latents and on clean history, so each block has its own divergence. 2 `steps` evaluations.
    """
    z, h = z_Bnd, 1.0 / steps
    integral_Bb = z.new_zeros(len(z), z.shape[1] // block, dtype=torch.float64)
    for step in range(steps):
        t = step * h
        v, div_Bb = velocity_and_divergence(velocity, z, t, divergence, probe_Bnd, block)
        ahead, following = z + h * v, (step + 1) * h
        v2, div2_Bb = velocity_and_divergence(
            velocity, ahead, following, divergence, probe_Bnd, block
        )
        z = z + 0.5 * h * (v + v2)
        integral_Bb = integral_Bb + 0.5 * h * (div_Bb + div2_Bb)
    log_normal_Bn = -0.5 * (z.double().square() + math.log(2 * math.pi)).sum(-1)
    return _by_block(log_normal_Bn, block) + integral_Bb


def velocity_and_divergence(
    velocity: VelocityField,
    z_Bnd: Tensor,
    t: float,
    divergence: str,
    probe_Bnd: Tensor,
    block: int,
) -> tuple[Tensor, Tensor]:
    """v and div v by block (B, b): e^T (dv/dz) e with one fixed probe, or the exact trace."""
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
    """sum_i dv_i / dz_i by block (B, b), one backward pass for each of a block's s x d coordinates.

    No block's velocity depends on another block, so one pass serves a coordinate of all of them.
    """
    v_Bbsd = v_Bnd.unflatten(1, (-1, block))
    trace_Bb = z_Bnd.new_zeros(v_Bbsd.shape[:2], dtype=torch.float64)
    for place in range(block):
        for channel in range(v_Bnd.shape[-1]):
            chosen = v_Bbsd[:, :, place, channel].sum()
            (row,) = torch.autograd.grad(chosen, z_Bnd, retain_graph=True)
            own_Bb = row.unflatten(1, (-1, block))[:, :, place, channel].double()
            trace_Bb = trace_Bb + own_Bb
    return trace_Bb


def _by_block(value_Bn: Tensor, block: int) -> Tensor:
    """Sums over the blocks, (B, b)."""
    return value_Bn.unflatten(1, (-1, block)).sum(-1)
