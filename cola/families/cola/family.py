"""Cola DLM as a family: stages, parameter groups, the bound, generation, export."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cola.families.cola.inference_flops import (
    EVALUATIONS,
    TAIL_STRATEGIES,
    bound_evaluations,
    density_evaluations,
)
from cola.families.cola.latent_use import gaussian_cost
from cola.families.cola.spec import ColaModelSpec, ColaObjective
from cola.families.interface.family import (
    Batch,
    Conditional,
    Likelihood,
    StageModule,
    trained,
)
from cola.families.interface.pretrained import load_pretrained
from cola.families.interface.refilling import RefillingFamily
from cola.likelihood.latent_conditional import conditional_nll
from cola.likelihood.latent_ode import (
    evidence_by_block,
    importance_weighted_bound,
    latent_moments,
)
from cola.models.cola_dlm import ColaDLM, build_cola_dlm, dit_sizes, vae_sizes
from cola.models.dit import ColaDiT
from cola.models.text_vae import TextVAE
from cola.objectives.collapse import collapse_reason
from cola.objectives.diagnostics import latent_diagnostics
from cola.objectives.joint import joint_draws, joint_loss
from cola.objectives.vae import stage1_loss, vae_draws
from cola.records import SOLVER_DIFFERENCE, NllKind, nll_kind_of
from cola.sampling.block_continuation import iter_generate, stream_blocks
from cola.sampling.block_decode import infill
from cola.sampling.block_draws import block_draws
from cola.sampling.predictive import PredictiveDraws
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
        self.model, self._stages = model, (objective.stage1, objective.stage2)
        self.reference = None
        if objective.stage2.uses_reference:
            self.reference = copy.deepcopy(model.vae.encoder).requires_grad_(False)
        model.vae.requires_grad_(objective.stage2.gradient_mode != "frozen_vae")

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """See `StageModule.draw`."""
        draws = joint_draws(
            self.model,
            *self._stages,
            batch.tokens_BL,
            batch.stream,
            vae_rests=not self._stages[1].trains_vae(batch.stage_step),
        )
        return {"tokens_BL": batch.tokens_BL, **draws}

    def forward(self, tokens_BL: Tensor, **draws: Tensor) -> dict[str, Tensor]:
        """See `StageModule`."""
        return joint_loss(self.model, self.reference, *self._stages, tokens_BL, draws)


class ColaFamily(RefillingFamily):
    """See `Family`."""

    name = "cola"
    fills_gaps = True
    watched = ("fm", "log_snr")

    def build(self, spec: ColaModelSpec) -> ColaDLM:
        """See `Family.build`."""
        return build_cola_dlm(
            spec.vae, spec.dit, spec.scaling_factor, shifting_factor=spec.shifting_factor
        )

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
        groups: list[dict[str, Any]] = [{"params": trained(module.model.dit), "lr_ratio": 1.0}]
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
        return collapse_reason(points, spec.vae, spec.scaling_factor, objective.stage2)

    def likelihood(
        self, model: ColaDLM, tokens_BL: Tensor, settings: LikelihoodSpec, *, stream: Stream
    ) -> Likelihood:
        """See `Family.likelihood`: the evidence bound with its three parts, or IWAE's bound."""
        if settings.importance_samples > 1:
            found = importance_weighted_bound(model, tokens_BL, settings, stream=stream)
            measured = {
                "effective_samples": found.effective_samples(),
                SOLVER_DIFFERENCE: found.solver_difference_B,
            }
            return Likelihood(found.nll_B, diagnostics=measured)
        evidence = evidence_by_block(
            model, tokens_BL, settings, stream=stream, diffusion_times=settings.diffusion_times
        )
        parts = {name: value_Bb.sum(1) for name, value_Bb in evidence.parts.items()}
        per_block = model.tokens_per_block
        by_position_BL = (evidence.nll / per_block).repeat_interleave(per_block, dim=1)
        return Likelihood(
            evidence.nll.sum(1),
            parts,
            diagnostics=evidence.measurements(tokens_BL.shape[1]),
            pooled=latent_moments(evidence.z0_Bnd),
            by_position_BL=by_position_BL,
        )

    def pooled_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """See `Family.pooled_metrics`: the price of the latents under the Gaussian with their
        moments."""
        return gaussian_cost(means)

    def likelihood_evaluations(self, model: ColaDLM, settings: LikelihoodSpec, length: int) -> int:
        """See `Family.likelihood_evaluations`: those of both solutions of the flow, about half of
        them followed by a backward pass for the divergence, and of the diffusion's bound."""
        solved, _ = density_evaluations(settings.ode_steps)
        return settings.importance_samples * solved + bound_evaluations(settings)

    def generation_evaluations(self, model: ColaDLM, settings: GenerationSpec, prompt: int) -> int:
        """See `Family.generation_evaluations`: the solver's for every block that is made."""
        passes = 1 if settings.guidance_scale == 1.0 else 2
        tail = prompt % model.tokens_per_block
        if settings.first_block not in TAIL_STRATEGIES:
            tail = 0
        blocks = -(-(tail + settings.max_new_tokens) // model.tokens_per_block)
        return passes * blocks * settings.steps * EVALUATIONS[settings.solver]

    def conditional_nll(
        self,
        model: ColaDLM,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        settings: LikelihoodSpec,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Conditional:
        """See `Family.conditional_nll`: a difference of bounds; a bound where no row has a prompt.

        `greedy_B` is None: decoding starts from sampled latents, so nothing is greedy.
        """
        pad = eos_token_id if eos_token_id is not None else 0
        nll_B, difference_B = conditional_nll(
            model, prompts, continuations, settings=settings, stream=stream, pad=pad
        )
        declared: NllKind = "estimate" if any(map(len, prompts)) else "bound"
        return Conditional(nll_B, nll_kind_of(declared, float(difference_B.mean())))

    def priced_tokens(self, model: ColaDLM, tokens: int) -> int:
        """See `Family.priced_tokens`: those of whole blocks."""
        return -(-tokens // model.tokens_per_block) * model.tokens_per_block

    def sizes_of(self, model: ColaDLM) -> ColaModelSpec:
        """See `Family.sizes_of`."""
        config = model.vae.config
        return ColaModelSpec(
            vae=vae_sizes(config),
            dit=dit_sizes(model.dit.config),
            scaling_factor=config.scaling_factor,
            shifting_factor=config.shifting_factor,
        )

    def diagnostics(self, model: ColaDLM, tokens_BL: Tensor, stream: Stream) -> dict[str, float]:
        """See `Family.diagnostics`: what the latents are like."""
        return latent_diagnostics(model, tokens_BL, stream)

    def stream(
        self,
        model: ColaDLM,
        prompt: list[int],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Iterator[list[int]]:
        """See `Family.stream`: block by block."""
        for (piece,) in stream_blocks(
            model, [prompt], settings, stream=stream, eos_token_id=eos_token_id
        ):
            yield piece

    def predictive_draws(
        self,
        model: ColaDLM,
        prompts_BL: Tensor,
        truth_BN: Tensor,
        settings: GenerationSpec,
        *,
        draws: Sequence[int],
        stream: Stream,
        eos_token_id: int | None,
    ) -> PredictiveDraws:
        """See `Family.predictive_draws`: latents of the prior, and the decoder's tokens."""
        pad = eos_token_id if eos_token_id is not None else 0
        return block_draws(
            model, prompts_BL, truth_BN, settings, draws=draws, stream=stream, pad=pad
        )

    def infill(
        self,
        model: ColaDLM,
        lefts: list[list[int]],
        gaps: list[int],
        *,
        rights: list[list[int]],
        settings: GenerationSpec,
        stream: Stream,
    ) -> list[list[int]]:
        """See `Family.infill`, and `cola.sampling.block_decode.infill` for what conditions it."""
        return infill(model, lefts, gaps, rights=rights, settings=settings, stream=stream)

    def save(self, model: ColaDLM, folder: Path) -> None:
        """Two folders in the public release's layout: `cola_vae`, `cola_dit`."""
        model.vae.save_pretrained(folder / "cola_vae")
        model.dit.save_pretrained(folder / "cola_dit")

    def load(self, folder: Path) -> ColaDLM:
        """Load what `save` wrote, or a release checkpoint in that layout."""
        vae = load_pretrained(TextVAE, folder / "cola_vae")
        return ColaDLM(vae, load_pretrained(ColaDiT, folder / "cola_dit"))

    continuations = staticmethod(iter_generate)
