"""How the prior of latents is trained: one form for each kind of prior.

Shapes: B batch, n latents, d latent width, b blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cola.models.cola_dlm import ColaDLM
from cola.models.latents.drifting import DriftingDiT
from cola.models.latents.mixture import MixtureDiT
from cola.objectives.drifting import drifting_loss
from cola.objectives.flow_matching import (
    ESTIMATES,
    flow_draws,
    flow_matching_errors,
    flow_matching_loss,
    prompt_draws,
)
from cola.objectives.flow_times import LikelihoodWeighting
from cola.objectives.learned_schedule import LearnedSchedule
from cola.seeding import Stream
from cola.spec.objectives import JointObjective, LikelihoodTime


@dataclass(frozen=True)
class PriorLoss:
    """value: what `JointObjective.fm_weight` weighs, a mean over latent dimensions. terms: what is
    logged of it, by name. added: what joins the loss as it is."""

    value: Tensor
    terms: dict[str, Tensor]
    added: Tensor | float = 0.0


class PriorTraining(Protocol):
    """The prior's part of stage 2."""

    def draws(
        self,
        shape_Bnd: tuple[int, int, int],
        *,
        stream: Stream,
        positions: Sequence[int],
        global_size: int,
        stage_step: int,
    ) -> dict[str, Tensor]:
        """Random inputs of `loss` in a step of the stage, for latents of this shape."""

    def loss(self, z0_Bnd: Tensor, draws: dict[str, Tensor]) -> PriorLoss:
        """The loss of clean latents in the prior's normalisation (model.md, Eq. 18)."""


class FlowTraining:
    """Flow matching (model.md, Eqs. 4 to 9), at times of a learned schedule where there is one."""

    def __init__(
        self, model: ColaDLM, stage2: JointObjective, schedule: LearnedSchedule | None
    ) -> None:
        self._dit, self._stage2, self._schedule = model.dit, stage2, schedule
        self._weighting = likelihood_weighting(model, stage2)

    def draws(
        self,
        shape_Bnd: tuple[int, int, int],
        *,
        stream: Stream,
        positions: Sequence[int],
        global_size: int,
        stage_step: int,
    ) -> dict[str, Tensor]:
        """See `PriorTraining.draws`."""
        draws = flow_draws(
            self._stage2,
            shape_Bnd,
            self._dit.config.block_size,
            stream=stream,
            positions=positions,
            global_size=global_size,
            weighting=self._weighting,
        )
        if self._stage2.estimates(stage_step):
            rows, device = shape_Bnd[0], stream.device
            draws[ESTIMATES] = torch.ones(rows, 1, dtype=torch.bool, device=device)
        return draws

    def loss(self, z0_Bnd: Tensor, draws: dict[str, Tensor]) -> PriorLoss:
        """See `PriorTraining.loss`."""
        if self._schedule is None:
            value = flow_matching_loss(self._dit, z0_Bnd, draws)
            return PriorLoss(value, {"fm": value})
        t_Bb, weight_Bb, log_density_Bb = self._schedule(draws["quantile_Bb"])
        timed = {**draws, "t_Bb": t_Bb, "weight_Bb": weight_Bb}
        error_Bn = flow_matching_errors(self._dit, z0_Bnd, timed)
        value = error_Bn.mean()
        return PriorLoss(
            value, {"fm": value}, self._schedule.variance_loss(error_Bn, log_density_Bb)
        )


class MixtureTraining:
    """The exact NLL of blocks of latents (model.md, Eq. 63); nothing is drawn."""

    def __init__(self, dit: MixtureDiT) -> None:
        self._dit = dit

    def draws(
        self,
        shape_Bnd: tuple[int, int, int],
        *,
        stream: Stream,
        positions: Sequence[int],
        global_size: int,
        stage_step: int,
    ) -> dict[str, Tensor]:
        """See `PriorTraining.draws`."""
        return {}

    def loss(self, z0_Bnd: Tensor, draws: dict[str, Tensor]) -> PriorLoss:
        """See `PriorTraining.loss`: nats a latent dimension."""
        mixture = self._dit.mixture(z0_Bnd.shape, self._dit.clean_history(z0_Bnd))
        value = -mixture.log_density(z0_Bnd).sum() / z0_Bnd.numel()
        return PriorLoss(value, {"prior_nll": value})


class DriftingTraining:
    """Drifting of the generator's samples (model.md, Eqs. 65 to 67)."""

    def __init__(self, dit: DriftingDiT, stage2: JointObjective) -> None:
        self._dit, self._stage2 = dit, stage2

    def draws(
        self,
        shape_Bnd: tuple[int, int, int],
        *,
        stream: Stream,
        positions: Sequence[int],
        global_size: int,
        stage_step: int,
    ) -> dict[str, Tensor]:
        """See `PriorTraining.draws`."""
        _, latents, width = shape_Bnd
        drawn = {"z1": stream.normal("z1", self._stage2.drift_samples, latents, width)}
        block = self._dit.config.block_size
        return drawn | prompt_draws(self._stage2, latents, block, stream=stream)

    def loss(self, z0_Bnd: Tensor, draws: dict[str, Tensor]) -> PriorLoss:
        """See `PriorTraining.loss`: a squared drift, which falls to what one text's latents say of
        where all of them lie, and not to 0; the energy score says how near samples are."""
        value, score = drifting_loss(self._dit, z0_Bnd, draws["z1"], draws.get("prompt_Bn"))
        return PriorLoss(value, {"drift": value, "energy_score": score})


def prior_training(
    model: ColaDLM, stage2: JointObjective, schedule: LearnedSchedule | None
) -> PriorTraining:
    """The training of the prior that the model has."""
    if isinstance(model.dit, MixtureDiT):
        return MixtureTraining(model.dit)
    if isinstance(model.dit, DriftingDiT):
        return DriftingTraining(model.dit, stage2)
    return FlowTraining(model, stage2, schedule)


def learned_schedule(model: ColaDLM, stage2: JointObjective) -> LearnedSchedule | None:
    """A fresh schedule; None where times are not learned."""
    weighting = likelihood_weighting(model, stage2)
    return LearnedSchedule(weighting) if weighting is not None and stage2.learns_times else None


def likelihood_weighting(model: ColaDLM, stage2: JointObjective) -> LikelihoodWeighting | None:
    """Times and weights of the likelihood's bound; None where others are asked for."""
    if not isinstance(stage2.timestep, LikelihoodTime):
        return None
    config = model.vae.config
    return LikelihoodWeighting.of(config.log_snr, config.scaling_factor)
