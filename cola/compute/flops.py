"""Parameters and FLOPs of the parts that families are made of, by component and convention.

A multiply-add is two FLOPs. Conventions:

- executed: matrix products that are computed, attention with its visible density, forward plus
  twice that for the backward pass of trained parts. Norms, activations and softmax are left out,
  and so is what activation checkpointing computes again: these are the model's FLOPs.
- nominal: the literature's 6 N D, where N counts the blocks' attention and MLP matrices and the
  output head. For a latent diffusion model these are the DiT's and the VAE's, without AdaLN and
  without the second (clean) copy: the count that explains the paper's 2,000 EFLOPs at 300,000
  steps.

Per-token numbers are per token of text, whatever `patch_size` is. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cola.spec.networks import DiTSpec, TextVAESpec, TransformerSpec
from cola.spec.objectives import VAEObjective

Convention = Literal["executed", "nominal"]
Components = dict[str, float]

SINUSOID = 256
# Forward + backward (for weights and for inputs, each as costly as forward), forward + backward for
# weights of a layer whose input needs no gradient, forward alone.
TRAINED, FIRST, FROZEN = 3.0, 2.0, 1.0
NO_INPUT_GRADIENT = ("inputs", "adaln_spread")  # of the DiT's components


@dataclass(frozen=True)
class ParameterCounts:
    """core: everything but token embeddings and output head, which are `embedding`."""

    core: int
    embedding: int
    head: int
    vae_core: int = 0  # part of core

    @property
    def total(self) -> int:
        """All parameters."""
        return self.core + self.embedding


@dataclass(frozen=True)
class FlopsBreakdown:
    """FLOPs per token of text, by component."""

    components: Components

    @property
    def total(self) -> float:
        """Sum over the components."""
        return sum(self.components.values())


def trunk_layer_parameters(width: int, ffn: int) -> int:
    """A Llama block: four square projections, three SwiGLU matrices, two RMSNorms."""
    return 4 * width * width + 3 * width * ffn + 2 * width


def trunk_parameters(
    trunk: TransformerSpec, embedding_rows: int, head_rows: int
) -> ParameterCounts:
    """A trunk with an untied head."""
    width = trunk.hidden_size
    core = trunk.num_layers * trunk_layer_parameters(width, trunk.ffn_size) + width
    return ParameterCounts(core, (embedding_rows + head_rows) * width, head_rows * width)


def trunk_nominal(trunk: TransformerSpec, head_parameters: int) -> FlopsBreakdown:
    """Training FLOPs per token by the literature's 6 N."""
    width, ffn = trunk.hidden_size, trunk.ffn_size
    blocks = trunk.num_layers * (4.0 * width * width + 3.0 * width * ffn)
    return FlopsBreakdown({"6N": 6.0 * (blocks + head_parameters)})


def trunk_forward(trunk: TransformerSpec, visible: float, head_rows: int) -> Components:
    """Forward FLOPs per token; each attends to `visible` tokens in the mean."""
    width, layers = trunk.hidden_size, trunk.num_layers
    return {
        "attention_projections": layers * 8.0 * width * width,
        "attention_scores": layers * 4.0 * width * visible,
        "mlp": layers * 6.0 * width * trunk.ffn_size,
        "head": 2.0 * width * head_rows,
    }


def dit_layer_parameters(width: int, inner: int, head_dim: int, *, ratio: float, bias: bool) -> int:
    """A DiT block without AdaLN: attention with QK LayerNorm per head, and the MLP."""
    attention = 4 * width * inner + 4 * head_dim + (3 * inner + width if bias else 0)
    mlp = round(ratio * width)
    return attention + 2 * mlp * width + mlp + width


def adaln_layer_parameters(width: int, rank: int | None = None) -> int:
    """Shift, scale and gate of attention and MLP, from an embedding of the same width: four
    projections to six vectors, through `rank` channels each where one is given."""
    if rank is None:
        return 6 * (width * width + width)
    return (4 + 6) * width * rank + 6 * width


def dit_fixed_parameters(
    width: int,
    latent_dim: int,
    *,
    outputs: int | None = None,
    rank: int | None = None,
    self_conditioning: bool = False,
) -> int:
    """The DiT outside its blocks: time embedding, latent projections, output norm and AdaLN.

    `outputs` of a latent; None: `latent_dim`.
    """
    outputs = latent_dim if outputs is None else outputs
    time = SINUSOID * width + width + 2 * (width * width + width)
    latents = (1 + self_conditioning) * latent_dim * width + width + outputs * (width + 1)
    last = 2 * (width * width + width) if rank is None else 3 * width * rank + 2 * width
    return time + latents + 2 * width + last


def dit_parameters(dit: DiTSpec) -> int:
    """The whole DiT."""
    width, inner = dit.hidden_size, dit.num_heads * dit.head_dim
    layer = dit_layer_parameters(width, inner, dit.head_dim, ratio=dit.mlp_ratio, bias=dit.qk_bias)
    layer += adaln_layer_parameters(width, dit.adaln_rank)
    fixed = dit_fixed_parameters(
        width,
        dit.latent_dim,
        outputs=dit.outputs,
        rank=dit.adaln_rank,
        self_conditioning=dit.self_conditioning,
    )
    return dit.num_layers * layer + fixed


def vae_layer_parameters(width: int, ffn: int, qk_norm: bool) -> int:
    """A VAE block: fused QKV without bias, output projection, fused SwiGLU, LayerNorms."""
    attention = 4 * width * width + width + (4 * width if qk_norm else 0)
    return attention + width * ffn + ffn + (ffn // 2) * width + width + 4 * width


def vae_fixed_parameters(width: int, latent_dim: int, patch_size: int) -> int:
    """The VAE's core outside its blocks: patch embedder, latent projections, unpatching, norm."""
    patch = width * width * patch_size + width
    unpatch = width * width * patch_size + width * patch_size
    latents = 2 * latent_dim * width + 2 * latent_dim + latent_dim * width + width
    return patch + unpatch + latents + 2 * width


def vae_parameters(vae: TextVAESpec) -> ParameterCounts:
    """The whole VAE; its embedding table has a row for the [mask] token."""
    layers = vae.encoder_layers + vae.decoder_layers
    core = layers * vae_layer_parameters(vae.hidden_size, vae.ffn_size, vae.qk_norm)
    core += vae_fixed_parameters(vae.hidden_size, vae.latent_dim, vae.patch_size)
    head = vae.vocab_size * vae.hidden_size + vae.vocab_size
    return ParameterCounts(core, (vae.vocab_size + 1) * vae.hidden_size + head, head, core)


def vae_forward(vae: TextVAESpec, length: int) -> Components:
    """Forward FLOPs per sequence of `length` tokens: encoder, decoder, their attention, head."""
    width, latents = vae.hidden_size, length // vae.patch_size
    dense = latents * (8.0 * width * width + 3.0 * width * vae.ffn_size)
    scores = 4.0 * width * latents * (latents + vae.visible_block) / 2
    patching = latents * 2.0 * width * width * vae.patch_size
    latent = latents * 2.0 * width * vae.latent_dim
    return {
        "vae_encoder": vae.encoder_layers * dense + patching + 2 * latent,
        "vae_encoder_attention_scores": vae.encoder_layers * scores,
        "vae_decoder": vae.decoder_layers * dense + patching + latent,
        "vae_decoder_attention_scores": vae.decoder_layers * scores,
        "head": length * 2.0 * width * vae.vocab_size,
    }


def masked_pass_forward(vae: TextVAESpec, objective: VAEObjective, length: int) -> Components:
    """Forward FLOPs per sequence of the masked copy; its head sees masked positions only."""
    if objective.lambda_mask == 0:
        return {}
    parts = vae_forward(vae, length)
    head = parts.pop("head") * max(1, round(objective.mask_rate * length)) / length
    scores = sum(value for name, value in parts.items() if name.endswith("attention_scores"))
    return {
        "masked_pass": sum(parts.values()) - scores + head,
        "masked_pass_attention_scores": scores,
    }


def dit_forward(
    dit: DiTSpec, latents: int, prompt_blocks: bool, *, timesteps: int | None = None
) -> Components:
    """Forward FLOPs per sequence of the training pass on [clean | noisy].

    The clean copy lacks the last block and, in the last layer, everything but its projections.
    `timesteps` of the noisy copy, None: one a block, pass AdaLN (the clean copy's one is shared by
    a batch); with `prompt_blocks` timestep 0 too, and a product spreads them over the latents.
    """
    width, inner, block = dit.hidden_size, dit.num_heads * dit.head_dim, dit.block_size
    blocks, clean = latents // block, latents - block
    qkv, rest = 6.0 * width * inner, 2.0 * width * inner
    mlp = 4.0 * dit.mlp_ratio * width * width
    noisy_pairs = block * block * blocks * (blocks + 1) / 2
    clean_pairs = block * block * blocks * (blocks - 1) / 2
    layers, upper = dit.num_layers, dit.num_layers - 1
    distinct = (blocks if timesteps is None else timesteps) + prompt_blocks
    spread = 2.0 * distinct * latents * (6 * layers + 2) * width if prompt_blocks else 0.0
    return {
        "attention_projections": layers * latents * (qkv + rest),
        "attention_scores": layers * 4.0 * inner * noisy_pairs,
        "mlp": layers * latents * mlp,
        "second_copy": clean * (layers * qkv + upper * (rest + mlp)),
        "second_copy_attention_scores": upper * 4.0 * inner * clean_pairs,
        "adaln": distinct * (adaln_projections(dit) + time_layers(dit)),
        "adaln_spread": spread,
        "inputs": (latents + clean) * 2.0 * dit.latent_dim * width
        + distinct * 2.0 * SINUSOID * width,
        "output": latents * 2.0 * dit.outputs * width,
    }


def noisy_forward(
    dit: DiTSpec, latents: int, prompt_blocks: bool, *, timesteps: int | None = None
) -> Components:
    """Forward FLOPs per sequence of a pass of the noisy copy alone, such as one that estimates the
    clean latents for another (model.md, Eq. 57); arguments and keys are those of `dit_forward`."""
    parts = dit_forward(dit, latents, prompt_blocks, timesteps=timesteps)
    del parts["second_copy"], parts["second_copy_attention_scores"]
    parts["inputs"] -= (latents - dit.block_size) * 2.0 * dit.latent_dim * dit.hidden_size
    return parts


def adaln_projections(dit: DiTSpec) -> float:
    """Forward FLOPs of one timestep's projections: 6 vectors a layer and 2 before the output, each
    a product of width x width, or through fewer channels."""
    width, rank = dit.hidden_size, dit.adaln_rank
    if rank is not None:
        return (dit.num_layers * 20.0 + 6.0) * width * rank
    return dit.num_layers * 12.0 * width * width + 4.0 * width * width


def time_layers(dit: DiTSpec) -> float:
    """Forward FLOPs of the two square layers of one timestep's embedding."""
    return 4.0 * dit.hidden_size * dit.hidden_size


def timestep_forward(dit: DiTSpec) -> float:
    """Forward FLOPs of one timestep: its embedding, and every AdaLN's projection of it."""
    embedding = 2.0 * SINUSOID * dit.hidden_size + time_layers(dit)
    return embedding + adaln_projections(dit)


def dit_pass(dit: DiTSpec, latents: float, pairs: float) -> Components:
    """Forward FLOPs of velocities of `latents` by the DiT, each layer attending to `pairs` of keys
    in all; AdaLN left out. With self-conditioning there are two passes, of which the second has an
    estimate."""
    width, inner, passes = dit.hidden_size, dit.num_heads * dit.head_dim, 1 + dit.self_conditioning
    inputs = latents * 2.0 * dit.latent_dim * width
    parts = {
        "dit_attention_projections": dit.num_layers * latents * 8.0 * width * inner,
        "dit_attention_scores": dit.num_layers * 4.0 * inner * pairs,
        "dit_mlp": dit.num_layers * latents * 4.0 * dit.mlp_ratio * width * width,
        "dit_inputs": inputs,
        "dit_output": latents * 2.0 * dit.outputs * width,
    }
    parts = {name: passes * value for name, value in parts.items()}
    parts["dit_inputs"] += dit.self_conditioning * inputs
    return parts


def dit_commit(dit: DiTSpec, latents: float, pairs: float) -> Components:
    """Forward FLOPs of clean latents: of the last layer only keys, values and their queries."""
    width, inner, upper = dit.hidden_size, dit.num_heads * dit.head_dim, dit.num_layers - 1
    qkv, rest = 6.0 * width * inner, 2.0 * width * inner + 4.0 * dit.mlp_ratio * width * width
    return {
        "clean_latents": latents * (dit.num_layers * qkv + upper * rest)
        + latents * 2.0 * dit.latent_dim * width,
        "clean_latents_attention_scores": upper * 4.0 * inner * pairs,
    }
