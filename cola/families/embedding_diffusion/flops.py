"""FLOPs of diffusion over token embeddings; executed convention (see `cola.compute.flops`)."""

from __future__ import annotations

from cola.compute.flops import (
    FIRST,
    SINUSOID,
    TRAINED,
    Components,
    dit_forward,
)
from cola.compute.flow_flops import blocks_of, flow_blocks, flow_density
from cola.families.embedding_diffusion.spec import EmbeddingDiffusionModelSpec, EmbeddingFlow
from cola.spec import GenerationSpec, LikelihoodSpec


def training(
    model: EmbeddingDiffusionModelSpec, objective: EmbeddingFlow, length: int
) -> Components:
    """Per token of text. Gradients reach the embeddings, and so the trunk's inputs."""
    dit, prompts = model.dit, objective.has_prompts(model.dit.block_size)
    parts = dit_forward(dit, length, prompts)
    del parts["output"]
    times = (length // dit.block_size + prompts) * 2.0 * SINUSOID * dit.hidden_size
    total = {f"dit_{name}": TRAINED * value for name, value in parts.items()}
    for name, first in (("dit_inputs", times), ("dit_adaln_spread", parts["adaln_spread"])):
        total[name] += (FIRST - TRAINED) * first
    total["head"] = TRAINED * length * 2.0 * (dit.hidden_size + dit.latent_dim) * model.vocab_size
    return {name: value / length for name, value in total.items() if value}


def nominal(model: EmbeddingDiffusionModelSpec) -> Components:
    """Per token of text, by 6 N."""
    dit = model.dit
    width, inner = dit.hidden_size, dit.num_heads * dit.head_dim
    layer = 4.0 * width * inner + 2.0 * dit.mlp_ratio * width * width
    return {"6N": 6.0 * (dit.num_layers * layer + width * model.vocab_size)}


def evidence(
    model: EmbeddingDiffusionModelSpec, settings: LikelihoodSpec, length: int
) -> Components:
    """One sample of the evidence bound, per sequence."""
    parts = flow_density(model.dit, settings, length, output=_velocity(model))
    return parts | {"rounding": length * rounding(model)}


def continuation(
    model: EmbeddingDiffusionModelSpec, settings: GenerationSpec, prompt: int, *, batch: int
) -> Components:
    """Denoise, round and embed block after block behind the prompt."""
    dit = model.dit
    before, made = blocks_of(settings, prompt, dit.block_size)
    parts = flow_blocks(dit, settings, before, made, batch=batch, output=_velocity(model))
    return parts | {"rounding": made * dit.block_size * rounding(model)}


def rounding(model: EmbeddingDiffusionModelSpec) -> float:
    """Forward FLOPs of a latent's products with all embeddings."""
    return 2.0 * model.dit.latent_dim * model.vocab_size


def _velocity(model: EmbeddingDiffusionModelSpec) -> float:
    """Of a latent: the trunk's logits, the latent's own, and the mean embedding."""
    return 2.0 * model.dit.hidden_size * model.vocab_size + 2 * rounding(model)
