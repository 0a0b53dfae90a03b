"""Cola DLM without its networks."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cola.compute.activations import (
    Precision,
    encoder_share,
    logit_bytes,
    vae_bytes,
)
from cola.compute.flops import (
    Convention,
    FlopsBreakdown,
    ParameterCounts,
    dit_parameters,
    vae_parameters,
)
from cola.families.cola import flops, inference_flops, sizes
from cola.families.cola.priors import DENSITIES, DRAWN, INTEGRATION, prior_bytes
from cola.families.cola.spec import ColaModelSpec, ColaObjective, ColaSettings
from cola.families.interface.definition import Look
from cola.families.interface.latent_definition import STRUCTURE, LatentDefinition
from cola.families.interface.latent_use import channel_capacity, latent_problem
from cola.records import NllKind
from cola.spec import GenerationSpec, LikelihoodSpec
from cola.spec.networks import DriftingPrior, FlowPrior
from cola.spec.objectives import VAEObjective

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cola.families.interface.family import Family


PRIOR = ("dit_", "estimate_")  # components of the training FLOPs that are the prior's


class ColaDefinition(LatentDefinition):
    """See `FamilyDefinition`."""

    name = "cola"
    label = "Cola DLM"
    look = Look(colour="#009E73", line="--")
    settings, model, objective = ColaSettings, ColaModelSpec, ColaObjective
    folders = MappingProxyType({"cola_dit": "cola_dit", "cola_vae": "cola_text_vae"})
    other_types = MappingProxyType({"cola_dit": frozenset({"cola_mixture", "cola_drifting"})})
    diagnostics = MappingProxyType(
        STRUCTURE
        | {
            "fm_at_time": "flow-matching loss at that t",
            "decode_accuracy_at_noise": (
                "tokens decoded right under noise of that size (over the latents' own)"
            ),
            "decode_accuracy_on_the_way": (
                "tokens of a text decoded right from latents moved by that share of the way to "
                "another text's"
            ),
            "probe_accuracy_at_offset": (
                "tokens that a linear probe of a latent gets right at that offset"
            ),
            "probe_majority_at_offset": "the same of always guessing the most frequent token",
        }
    )
    task_note = (
        "word nats of the cloze are an estimate, given only where every word fills its blocks; at "
        "temperature 0 an answer is still a draw, of latents, where other families' are the mode."
    )
    opening_note = (
        "`cola_dit/` and `cola_vae/` are in the layout of Cola DLM's public release; "
        "`AutoTokenizer` opens this folder."
    )
    bootstrap_seed = 2

    def keys_read(self, part: str, model: Any) -> frozenset[str]:
        """See `FamilyDefinition.keys_read`: what integrates a flow is read by nothing else."""
        keys = super().keys_read(part, model)
        if model is None or isinstance(model.prior, FlowPrior):
            return keys
        return DENSITIES[model.prior.kind] if part == "likelihood" else keys - INTEGRATION

    def nll_kind(self, model: Any, settings: LikelihoodSpec) -> NllKind | None:
        """See `FamilyDefinition.nll_kind`: a generator has none."""
        drifts = model is not None and isinstance(model.prior, DriftingPrior)
        return None if drifts else super().nll_kind(model, settings)

    def latents_of(self, settings: GenerationSpec, model: Any) -> str:
        """See `LatentDefinition.latents_of`."""
        if model is None or isinstance(model.prior, FlowPrior):
            return super().latents_of(settings, model)
        return DRAWN[model.prior.kind]

    def implementation(self) -> Family:
        """See `FamilyDefinition.implementation`."""
        from cola.families.cola.family import ColaFamily

        return ColaFamily()

    def paper_row(self, vocab_size: int, settings: ColaSettings) -> ColaModelSpec:
        """See `FamilyDefinition.paper_row`."""
        return sizes.paper_row(vocab_size, settings)

    def nearest(
        self, core_parameters: int, vocab_size: int, settings: ColaSettings
    ) -> ColaModelSpec:
        """See `FamilyDefinition.nearest`."""
        return sizes.core_sized(core_parameters, vocab_size, settings)

    def parameter_counts(self, model: ColaModelSpec) -> ParameterCounts:
        """The embeddings are the VAE's."""
        vae = vae_parameters(model.vae)
        return ParameterCounts(
            dit_parameters(model.dit) + vae.core, vae.embedding, vae.head, vae.core
        )

    def train_flops_per_token(
        self,
        model: ColaModelSpec,
        objective: ColaObjective,
        length: int,
        *,
        stage: str,
        convention: Convention,
    ) -> FlopsBreakdown:
        """See `FamilyDefinition.train_flops_per_token`."""
        if convention == "nominal":
            return FlopsBreakdown(flops.nominal(model, stage))
        return FlopsBreakdown(flops.executed(model, objective, length, stage=stage))

    def prior_flops_per_token(
        self, model: ColaModelSpec, objective: ColaObjective, length: int, *, stage: str
    ) -> float:
        """See `FamilyDefinition.prior_flops_per_token`: the DiT's."""
        found = self.train_flops_per_token(
            model, objective, length, stage=stage, convention="executed"
        )
        return sum(v for name, v in found.components.items() if name.startswith(PRIOR))

    def likelihood_flops_per_token(
        self, model: ColaModelSpec, settings: LikelihoodSpec, length: int
    ) -> FlopsBreakdown:
        """See `FamilyDefinition.likelihood_flops_per_token`."""
        parts = inference_flops.evidence(model, settings, length)
        scored = self.nll_kind(model, settings) is not None
        samples = settings.importance_samples if scored else 1
        return FlopsBreakdown({name: samples * v / length for name, v in parts.items()})

    def generation_flops_per_token(
        self, model: ColaModelSpec, settings: GenerationSpec, prompt: int, *, batch: int = 1
    ) -> FlopsBreakdown:
        """Patches that a prompt splits are left out, and the second time of a repainted block."""
        parts = inference_flops.block_decoding(model, settings, prompt, batch=batch)
        return FlopsBreakdown({name: v / settings.max_new_tokens for name, v in parts.items() if v})

    def predictive_flops(
        self, model: ColaModelSpec, settings: GenerationSpec, prompt: int, *, draws: int
    ) -> float:
        """The prompt is encoded once for all draws."""
        parts = inference_flops.block_decoding(model, settings, prompt, batch=draws)
        encoder = sum(v for name, v in parts.items() if name.startswith("vae_encoder"))
        return draws * (sum(parts.values()) - encoder) + encoder

    def activation_bytes(
        self, model: ColaModelSpec, objective: ColaObjective, precision: Precision
    ) -> float:
        """Of stage 2, or of stage 1 where that keeps more."""
        return self._kept_bytes(model, objective, precision, checkpoints=False)

    def checkpointed_bytes(
        self, model: ColaModelSpec, objective: ColaObjective, precision: Precision
    ) -> float:
        """See `FamilyDefinition.checkpointed_bytes`."""
        return self._kept_bytes(model, objective, precision, checkpoints=True)

    def _kept_bytes(
        self,
        model: ColaModelSpec,
        objective: ColaObjective,
        precision: Precision,
        *,
        checkpoints: bool,
    ) -> float:
        logits = logit_bytes(model.vocab_size, precision)

        def of_vae(terms: VAEObjective, copies: float) -> float:
            masked = terms.lambda_mask > 0
            part = vae_bytes(model.vae, precision, copies + masked, checkpoints=checkpoints)
            return part + logits * (1 + (terms.mask_rate if masked else 0.0))

        prior = prior_bytes(
            model.prior,
            model.dit,
            objective.stage2,
            precision=precision,
            patch_size=model.vae.patch_size,
            checkpoints=checkpoints,
        )
        whole = encoder_share(model.vae) if objective.stage1.token_dropout > 0 else 0.0
        stage1 = of_vae(objective.stage1, 1.0)
        if objective.stage2.gradient_mode == "frozen_vae":
            return max(stage1, prior)
        return max(stage1, of_vae(objective.vae_in_stage2, 1.0 + whole) + prior)

    def head_shares(self, objective: ColaObjective) -> tuple[float, ...]:
        """See `FamilyDefinition.head_shares`: all tokens, and those masked.

        With a frozen VAE it is stage 2, which scores none, that may keep the most.
        """
        if objective.stage2.gradient_mode == "frozen_vae":
            return ()
        stage1, stage2 = objective.stage1, objective.vae_in_stage2
        masked = max(stage1.lambda_mask, stage2.lambda_mask) > 0
        return (1.0, stage1.mask_rate) if masked else (1.0,)

    def channel_capacity(self, model: ColaModelSpec) -> float | None:
        """See `FamilyDefinition.channel_capacity`: of Gaussian channels with a fixed logSNR
        (model.md, Eq. 40)."""
        return channel_capacity(model.vae)

    def problem(self, values: Mapping[str, float], unigram: float) -> str | None:
        """See `FamilyDefinition.problem`: what the latents hold, what the prior has learned."""
        return latent_problem(values, unigram)

    def frozen_parameters(self, model: ColaModelSpec, objective: ColaObjective) -> int:
        """The reference encoder: half of the VAE's core, and the embedding table."""
        if not objective.stage2.uses_reference:
            return 0
        counts = self.parameter_counts(model)
        return counts.vae_core // 2 + (counts.embedding - counts.head)

    def sequence_multiple(self, settings: ColaSettings) -> tuple[int, str]:
        """Whole blocks of latents."""
        return settings.tokens_per_block, "patch_size * block_size"

    def deciding(
        self, model: ColaModelSpec, objective: ColaObjective, stage: str
    ) -> dict[str, Any]:
        """Stage 1 knows the VAE alone; the share of stage 1 is in its number of steps already."""
        if stage == "vae":
            parts = {"vae": model.vae, "stage1": objective.stage1}
            return {name: part.model_dump(mode="json") for name, part in parts.items()}
        kept = objective.model_dump(mode="json", exclude={"stage1_share"})
        return {"model": model.model_dump(mode="json"), "objective": kept}


COLA = ColaDefinition()
