"""Cola DLM as a family: stages, parameter groups, the bound, generation, export."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cola.families.cola.networks import (
    build_model,
    load_model,
    prior_of,
    save_model,
    sizes_in,
    sizes_of,
)
from cola.families.cola.priors import integrated
from cola.families.cola.spec import ColaModelSpec, ColaObjective
from cola.families.interface.family import (
    Batch,
    StageModule,
    trained,
)
from cola.families.interface.latent import LatentFamily
from cola.models.cola_dlm import ColaDLM
from cola.models.dit import ColaDiT
from cola.models.latents.drifting import DriftingDiT
from cola.models.latents.mixture import MixtureDiT
from cola.models.text_vae import TextVAE
from cola.objectives.collapse import collapse_reason
from cola.objectives.diagnostics import flow_diagnostics, latent_diagnostics
from cola.objectives.drifting import measured
from cola.objectives.joint import joint_draws, joint_loss
from cola.objectives.prior_training import learned_schedule, prior_training
from cola.objectives.vae import stage1_loss, vae_draws
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec


class VAEStage(StageModule):
    """Stage 1 optimises the VAE alone."""

    def __init__(self, vae: TextVAE, objective: ColaObjective) -> None:
        super().__init__()
        self.vae, self._objective = vae, objective.stage1

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """See `StageModule.draw`."""
        draws = vae_draws(self.vae, self._objective, batch.tokens_BL, stream=batch.stream)
        return {"tokens_BL": batch.tokens_BL, **draws}

    def forward(self, tokens_BL: Tensor, **draws: Tensor) -> dict[str, Tensor]:
        """See `StageModule`."""
        return stage1_loss(self.vae, self._objective, tokens_BL, draws=draws)


class JointStage(StageModule):
    """Stage 2 optimises the DiT, and the VAE as far as the gradient mode says."""

    def __init__(self, model: ColaDLM, objective: ColaObjective) -> None:
        super().__init__()
        self.model, self._stages = model, (objective.vae_in_stage2, objective.stage2)
        self.reference = None
        if objective.stage2.uses_reference:
            self.reference = copy.deepcopy(model.vae.encoder).requires_grad_(False)
        model.vae.requires_grad_(objective.stage2.gradient_mode != "frozen_vae")
        self.schedule = learned_schedule(model, objective.stage2)
        self._prior = prior_training(model, objective.stage2, self.schedule)

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """See `StageModule.draw`."""
        draws = joint_draws(
            self.model,
            *self._stages,
            batch.tokens_BL,
            batch.stream,
            prior=self._prior,
            positions=batch.positions,
            global_size=batch.global_size,
            stage_step=batch.stage_step,
        )
        return {"tokens_BL": batch.tokens_BL, **draws}

    def forward(self, tokens_BL: Tensor, **draws: Tensor) -> dict[str, Tensor]:
        """See `StageModule`."""
        return joint_loss(
            self.model, self.reference, *self._stages, tokens_BL, draws, prior=self._prior
        )


class ColaFamily(LatentFamily):
    """See `Family`."""

    name = "cola"
    watched = ("fm", "log_snr")

    def build(self, spec: ColaModelSpec) -> ColaDLM:
        """See `Family.build`."""
        return build_model(spec)

    def stage_module(self, model: ColaDLM, objective: ColaObjective, stage: str) -> StageModule:
        """See `Family.stage_module`; stages are vae and joint."""
        if stage == "vae":
            return VAEStage(model.vae, objective)
        return JointStage(model, objective)

    def parameter_groups(
        self, module: StageModule, objective: ColaObjective, stage: str
    ) -> list[dict[str, Any]]:
        """See `Family.parameter_groups`; the VAE has its own rate and interval in stage 2."""
        if not isinstance(module, JointStage):
            return [{"params": trained(module), "lr_ratio": 1.0}]
        stage2 = objective.stage2
        prior = trained(module.model.dit)
        if module.schedule is not None:
            prior += trained(module.schedule)
        groups: list[dict[str, Any]] = [{"params": prior, "lr_ratio": 1.0}]
        if stage2.gradient_mode != "frozen_vae":
            group = {"params": trained(module.model.vae), "lr_ratio": stage2.vae_lr_ratio}
            if stage2.gradient_mode == "interval":
                group["interval"] = stage2.vae_interval
            groups.append(group)
        return groups

    def collapse(
        self, points: Sequence[Mapping[str, float]], spec: ColaModelSpec, objective: ColaObjective
    ) -> str | None:
        """See `Family.collapse`: the latents, see `cola.objectives.collapse`."""
        return collapse_reason(
            points, spec.vae, spec.scaling_factor, stage1=objective.stage1, stage2=objective.stage2
        )

    def sizes_of(self, model: ColaDLM) -> ColaModelSpec:
        """See `Family.sizes_of`."""
        return sizes_of(model.vae.config, model.dit.config)

    def sizes_in(self, folder: Path) -> ColaModelSpec:
        """See `Family.sizes_in`."""
        return sizes_in(folder)

    def likelihood_evaluations(self, model: Any, settings: LikelihoodSpec, length: int) -> int:
        """See `Family.likelihood_evaluations`."""
        if isinstance(model.dit, MixtureDiT):
            return settings.importance_samples
        return super().likelihood_evaluations(model, settings, length)

    def generation_evaluations(self, model: Any, settings: GenerationSpec, prompt: int) -> int:
        """See `Family.generation_evaluations`."""
        settings = integrated(prior_of(model.dit.config), settings)
        return super().generation_evaluations(model, settings, prompt)

    def measurements(self, model: ColaDLM, tokens_BL: Tensor, stream: Stream) -> dict[str, Tensor]:
        """See `Family.measurements`: of a generator its energy score, and the distortion."""
        return measured(model, tokens_BL, stream) if isinstance(model.dit, DriftingDiT) else {}

    def diagnostics(self, model: ColaDLM, tokens_BL: Tensor, stream: Stream) -> dict[str, float]:
        """See `Family.diagnostics`: what the latents are like, and of a flow, which has a loss at
        every time, what that is and what of it comes of a history."""
        found = latent_diagnostics(model, tokens_BL, stream)
        if not isinstance(model.dit, ColaDiT):
            return found
        of_flow = flow_diagnostics(model, tokens_BL, stream)
        return found | of_flow | super().diagnostics(model, tokens_BL, stream)

    def save(self, model: ColaDLM, folder: Path) -> None:
        """See `save_model`."""
        save_model(model, folder)

    def load(self, folder: Path) -> ColaDLM:
        """Load what `save` wrote, or a release checkpoint in that layout."""
        return load_model(folder)
