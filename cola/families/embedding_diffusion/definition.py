"""Diffusion over token embeddings without its network."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from cola.compute.activations import Precision, dit_bytes, logit_bytes
from cola.compute.flops import (
    Convention,
    FlopsBreakdown,
    ParameterCounts,
    adaln_layer_parameters,
    dit_fixed_parameters,
    dit_layer_parameters,
    dit_parameters,
)
from cola.compute.flow_flops import blocks_of
from cola.compute.sizing import HARDWARE_FROM, Shape, aspect, best_shape, head_dim, width_step
from cola.families.embedding_diffusion import flops
from cola.families.embedding_diffusion.spec import (
    EmbeddingDiffusionModelSpec,
    EmbeddingDiffusionSettings,
    EmbeddingFlow,
)
from cola.families.interface.definition import Look
from cola.families.interface.latent_definition import LatentDefinition
from cola.families.interface.latent_use import ON_THE_LINE
from cola.records import DISTORTION
from cola.spec import GenerationSpec, LikelihoodSpec
from cola.spec.networks import DiTSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cola.families.interface.family import Family


# Of MLP widths of small models, where nothing but them can be tuned to the target: a finer one
# than where the VAE makes up what the prior misses.
SMALL_UNIT = 4


class EmbeddingDiffusionDefinition(LatentDefinition):
    """See `FamilyDefinition`."""

    name = "embedding_diffusion"
    label = "Embedding diffusion"
    look = Look(colour="#56B4E9", line=(0, (5, 1, 1, 1, 1, 1)), marker="s")
    settings, model = EmbeddingDiffusionSettings, EmbeddingDiffusionModelSpec
    objective = EmbeddingFlow
    folders = MappingProxyType({".": "cola_embedding_diffusion"})
    generation_keys = frozenset(
        {"max_new_tokens", "steps", "guidance_scale", "solver", "time_grid", "first_block"}
    )
    task_note = (
        "word nats of the cloze are a bound, given only where every word fills its blocks; an "
        "answer is a draw of embeddings whatever the temperature is, where other families' are the "
        "mode at 0."
    )

    def implementation(self) -> Family:
        """See `FamilyDefinition.implementation`."""
        from cola.families.embedding_diffusion.family import EmbeddingDiffusionFamily

        return EmbeddingDiffusionFamily()

    def paper_row(
        self, vocab_size: int, settings: EmbeddingDiffusionSettings
    ) -> EmbeddingDiffusionModelSpec:
        """The trunk of Cola DLM's prior in the paper's row."""
        return _model(vocab_size, settings, layers=24, width=2048, ffn=8192)

    def nearest(
        self, core_parameters: int, vocab_size: int, settings: EmbeddingDiffusionSettings
    ) -> EmbeddingDiffusionModelSpec:
        """See `FamilyDefinition.nearest`."""
        shape = _shape(core_parameters, settings.embedding_dim)
        return _model(vocab_size, settings, layers=shape.layers, width=shape.width, ffn=shape.ffn)

    def parameter_counts(self, model: EmbeddingDiffusionModelSpec) -> ParameterCounts:
        """The trunk has no output of its own: the head is it."""
        dit = model.dit
        core = dit_parameters(dit) - _output_parameters(dit.hidden_size, dit.latent_dim)
        head = model.vocab_size * dit.hidden_size
        return ParameterCounts(core, model.vocab_size * dit.latent_dim + head, head)

    def train_flops_per_token(
        self,
        model: EmbeddingDiffusionModelSpec,
        objective: EmbeddingFlow,
        length: int,
        *,
        stage: str,
        convention: Convention,
    ) -> FlopsBreakdown:
        """See `FamilyDefinition.train_flops_per_token`."""
        if convention == "nominal":
            return FlopsBreakdown(flops.nominal(model))
        return FlopsBreakdown(flops.training(model, objective, length))

    def likelihood_flops_per_token(
        self, model: EmbeddingDiffusionModelSpec, settings: LikelihoodSpec, length: int
    ) -> FlopsBreakdown:
        """See `FamilyDefinition.likelihood_flops_per_token`."""
        parts, samples = flops.evidence(model, settings, length), settings.importance_samples
        return FlopsBreakdown({name: samples * v / length for name, v in parts.items()})

    def generation_flops_per_token(
        self,
        model: EmbeddingDiffusionModelSpec,
        settings: GenerationSpec,
        prompt: int,
        *,
        batch: int = 1,
    ) -> FlopsBreakdown:
        """The second time of a repainted block is left out."""
        parts = flops.continuation(model, settings, prompt, batch=batch)
        return FlopsBreakdown({name: v / settings.max_new_tokens for name, v in parts.items() if v})

    def predictive_flops(
        self,
        model: EmbeddingDiffusionModelSpec,
        settings: GenerationSpec,
        prompt: int,
        *,
        draws: int,
    ) -> float:
        """Where the tokens lie in several blocks, each draw has a second row, behind the text's
        own tokens."""
        _, blocks = blocks_of(settings, prompt, model.dit.block_size)
        rows = draws if blocks == 1 else 2 * draws
        return rows * sum(flops.continuation(model, settings, prompt, batch=rows).values())

    def tokens_of(self, settings: GenerationSpec) -> str:
        """See `LatentDefinition.tokens_of`."""
        return "each the token of the nearest embedding"

    def activation_bytes(
        self, model: EmbeddingDiffusionModelSpec, objective: EmbeddingFlow, precision: Precision
    ) -> float:
        """See `FamilyDefinition.activation_bytes`."""
        return dit_bytes(model.dit, precision, 1) + _head_bytes(model, precision)

    def checkpointed_bytes(
        self, model: EmbeddingDiffusionModelSpec, objective: EmbeddingFlow, precision: Precision
    ) -> float:
        """See `FamilyDefinition.checkpointed_bytes`."""
        kept = dit_bytes(model.dit, precision, 1, checkpoints=True)
        return kept + _head_bytes(model, precision)

    def head_shares(self, objective: EmbeddingFlow) -> tuple[float, ...]:
        """See `FamilyDefinition.head_shares`: every token."""
        return (1.0,)

    def problem(self, values: Mapping[str, float], unigram: float) -> str | None:
        """See `FamilyDefinition.problem`: embeddings that lie on one another."""
        distortion = values.get(f"{DISTORTION}_nats_per_token")
        if distortion is None or distortion <= unigram - ON_THE_LINE:
            return None
        return (
            f"its embeddings have collapsed: they are rounded to tokens as from token frequencies "
            f"({distortion:.3f} against {unigram:.3f} nats a token); a higher log_snr, more "
            "embedding_dim or another learning rate keeps them apart"
        )

    def sequence_multiple(self, settings: EmbeddingDiffusionSettings) -> tuple[int, str]:
        """Whole blocks."""
        return settings.block_size, "block_size"


def _head_bytes(model: EmbeddingDiffusionModelSpec, precision: Precision) -> float:
    """Of one token: its logits, features beside the latent's part, and the steps to that."""
    inputs = 4.0 * (model.dit.hidden_size + 12 * model.dit.latent_dim)
    return logit_bytes(model.vocab_size, precision) + inputs


@cache
def _shape(core_parameters: int, latent_dim: int) -> Shape:
    """Of the trunk; many runs of a study or sweep ask for the same."""

    def size(layers: int, width: int, ffn: int) -> int:
        layer = dit_layer_parameters(width, width, head_dim(width), ratio=ffn / width, bias=False)
        fixed = dit_fixed_parameters(width, latent_dim) - _output_parameters(width, latent_dim)
        return layers * (layer + adaln_layer_parameters(width)) + fixed

    return best_shape(
        core_parameters,
        size,
        width_step(core_parameters),
        wanted_aspect=aspect(core_parameters),
        unit=SMALL_UNIT if core_parameters < HARDWARE_FROM else None,
    )


def _output_parameters(width: int, latent_dim: int) -> int:
    """Of the linear map to latents that Cola DLM's prior has, and this trunk has not."""
    return latent_dim * width + latent_dim


def _model(
    vocab_size: int, settings: EmbeddingDiffusionSettings, *, layers: int, width: int, ffn: int
) -> EmbeddingDiffusionModelSpec:
    head = head_dim(width)
    dit = DiTSpec(
        latent_dim=settings.embedding_dim,
        block_size=settings.block_size,
        hidden_size=width,
        num_layers=layers,
        num_heads=width // head,
        head_dim=head,
        rope_dim=head * 3 // 4,
        mlp_ratio=ffn // width if ffn % width == 0 else ffn / width,
    )
    return EmbeddingDiffusionModelSpec(vocab_size=vocab_size, dit=dit, log_snr=settings.log_snr)


EMBEDDING_DIFFUSION = EmbeddingDiffusionDefinition()
