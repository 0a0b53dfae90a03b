"""The evidence bound with the prior's exact change of variables (section 5).

log p(x) >= E_q[log p(x|z0) + log p_psi(z0) - log q(z0|x)];
log p_psi(z0) = log N(z(1); 0, I) + integral_0^1 div v(z(t), t) dt along dz/dt = v.
Shapes: B batch, L tokens, n latents, d latent width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cola.models.cola_dlm import ColaDLM
from cola.objectives.vae import Posterior
from cola.seeding import Stream
from cola.spec import LikelihoodSpec

VelocityField = Callable[[Tensor, float], Tensor]


def evidence_bound(
    model: ColaDLM, tokens_BL: Tensor, settings: LikelihoodSpec, stream: Stream
) -> dict[str, Tensor]:
    """Upper bound of -log p(x) per sequence, in nats, by its parts; each (B,) float64.

    reconstruction = -log p(x|z0), prior = -log p_psi(z0), posterior = log q(z0|x), for one sample
    of z0. The prior is the flow's as solved with `ode_steps` Heun steps (two evaluations of the
    DiT with gradient each).
    """
    with torch.no_grad():
        posterior = Posterior(*model.vae.encoder(tokens_BL))
        latents, width = posterior.mean.shape[1:]
        z0 = posterior.sample(stream.normal("posterior", latents, width))
        logits = model.vae.decoder(z0).float()
        token_nll = F.cross_entropy(logits.transpose(1, 2), tokens_BL, reduction="none")
        z = model.to_dit(z0)
        history = model.dit.clean_history(z)

    def velocity(z_Bnd: Tensor, t: float) -> Tensor:
        t_BK = z_Bnd.new_full((len(z_Bnd), 1), t)
        return model.dit.noisy_pass(z_Bnd, t_BK, history).float()

    probe = stream.uniform("probe", latents, width).round() * 2 - 1
    log_prior = flow_log_density(velocity, z, settings.ode_steps, settings.divergence, probe)
    # Densities of z0 = z / scaling_factor + shift: change of variables of the border.
    log_prior = log_prior + latents * width * math.log(model.vae.config.scaling_factor)
    return {
        "reconstruction": token_nll.double().sum(1),
        "prior": -log_prior,
        "posterior": posterior.log_density(z0).double().sum(1),
    }


def flow_log_density(
    velocity: VelocityField, z_Bnd: Tensor, steps: int, divergence: str, probe_Bnd: Tensor
) -> Tensor:
    """log p(z) of the flow that ends in N(0, I) at t = 1: (B,) float64, by Heun's method.

    The blocks of a sequence are solved side by side: a block's velocity depends on its own noisy
    latents and on clean history, so the divergence of all blocks is the sum of theirs.
    """
    integral = torch.zeros(len(z_Bnd), dtype=torch.float64, device=z_Bnd.device)
    h = 1.0 / steps
    v, div = velocity_and_divergence(velocity, z_Bnd, 0.0, divergence, probe_Bnd)
    for step in range(steps):
        following = (step + 1) * h
        ahead = z_Bnd + h * v
        v2, div2 = velocity_and_divergence(velocity, ahead, following, divergence, probe_Bnd)
        z_Bnd = z_Bnd + 0.5 * h * (v + v2)
        integral = integral + 0.5 * h * (div + div2)
        if step < steps - 1:
            v, div = velocity_and_divergence(velocity, z_Bnd, following, divergence, probe_Bnd)
    square = z_Bnd.double().square().flatten(1).sum(1)
    constant = z_Bnd[0].numel() * math.log(2 * math.pi)
    return -0.5 * (square + constant) + integral


def velocity_and_divergence(
    velocity: VelocityField, z_Bnd: Tensor, t: float, divergence: str, probe_Bnd: Tensor
) -> tuple[Tensor, Tensor]:
    """v and div v per sequence: e^T (dv/dz) e with one fixed probe, or the exact trace."""
    with torch.enable_grad():
        z_Bnd = z_Bnd.detach().requires_grad_(True)
        v = velocity(z_Bnd, t)
        if divergence == "hutchinson":
            (product,) = torch.autograd.grad(v, z_Bnd, probe_Bnd)
            div = (product * probe_Bnd).double().flatten(1).sum(1)
        else:
            div = exact_trace(v, z_Bnd)
    return v.detach(), div


def exact_trace(v_Bnd: Tensor, z_Bnd: Tensor) -> Tensor:
    """sum_i dv_i / dz_i, one backward pass for each of the n x d coordinates."""
    trace = torch.zeros(len(z_Bnd), dtype=torch.float64, device=z_Bnd.device)
    flat = v_Bnd.flatten(1)
    for index in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, index].sum(), z_Bnd, retain_graph=True)
        trace = trace + row.flatten(1)[:, index].double()
    return trace
