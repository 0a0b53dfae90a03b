"""Sums over blocks of the evidence bound's parts and of a flow's density."""

from __future__ import annotations

from torch import Tensor

from cola.likelihood.flow_density import VelocityField, flow_density_by_block
from cola.likelihood.latent_ode import evidence_by_block
from cola.models.cola_dlm import ColaDLM
from cola.seeding import Stream
from cola.spec import LikelihoodSpec


def evidence_bound(
    model: ColaDLM, tokens_BL: Tensor, settings: LikelihoodSpec, stream: Stream
) -> dict[str, Tensor]:
    """The bound's parts, summed over the blocks, (B,) each."""
    by_block = evidence_by_block(model, tokens_BL, settings, stream=stream).parts
    return {name: value_Bb.sum(1) for name, value_Bb in by_block.items()}


def conditional_evidence(
    model: ColaDLM, tokens_BL: Tensor, prompt: int, settings: LikelihoodSpec, stream: Stream
) -> dict[str, Tensor]:
    """The parts of the blocks behind a prompt of whole blocks, (B,) each."""
    by_block = evidence_by_block(model, tokens_BL, settings, stream=stream).parts
    skip = prompt // model.tokens_per_block
    return {name: value_Bb[:, skip:].sum(1) for name, value_Bb in by_block.items()}


def flow_log_density(
    velocity: VelocityField, z_Bnd: Tensor, steps: int, *, divergence: str, probe_Bnd: Tensor
) -> Tensor:
    """log p(z) of any flow, (B,), extrapolated: the whole sequence as one block."""
    density = flow_density_by_block(
        velocity,
        z_Bnd,
        steps,
        divergence=divergence,
        probe_Bnd=probe_Bnd,
        block=z_Bnd.shape[1],
        scale=0.5,
    )
    return density.extrapolated[:, 0]
