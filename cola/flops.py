"""Parameters and FLOPs of every family, by component and in named conventions.

A multiply-add is two FLOPs. Conventions:

- executed: matrix products that are carried out, attention with its visible density, forward plus
  twice that for the backward pass of trained parts. Norms, activations and softmax are left out.
- nominal: the literature's 6 N D, where N counts the blocks' attention and MLP matrices and the
  output head. For Cola DLM these are the DiT's and the VAE's, without AdaLN and without the second
  (clean) copy: the count that explains the paper's 2,000 EFLOPs at 300,000 steps.

Per-token numbers are per token of text, whatever `patch_size` is. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cola.spec.model import (
    ColaModelSpec,
    DiTSpec,
    ModelSpec,
    TextVAESpec,
    TransformerSpec,
)
from cola.spec.objective import ColaObjective, Objective, VAEObjective

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


def parameter_counts(model: ModelSpec) -> ParameterCounts:
    """Exact parameter counts, as the instantiated model has them."""
    if isinstance(model, ColaModelSpec):
        return _cola_parameters(model)
    width, rows = model.hidden_size, model.vocab_size + 1
    head_rows = rows if model.family == "ar" else model.vocab_size
    core = model.num_layers * trunk_layer_parameters(width, model.ffn_size) + width
    return ParameterCounts(core, (rows + head_rows) * width, head_rows * width)


def trunk_layer_parameters(width: int, ffn: int) -> int:
    """A Llama block: four square projections, three SwiGLU matrices, two RMSNorms."""
    return 4 * width * width + 3 * width * ffn + 2 * width


def dit_layer_parameters(width: int, inner: int, head_dim: int, ratio: int, bias: bool) -> int:
    """A DiT block without AdaLN: attention with QK LayerNorm per head, and the MLP."""
    attention = 4 * width * inner + 4 * head_dim + (3 * inner + width if bias else 0)
    return attention + 2 * ratio * width * width + (ratio + 1) * width


def adaln_layer_parameters(width: int) -> int:
    """Shift, scale and gate of attention and MLP, from an embedding of the same width."""
    return 6 * (width * width + width)


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


def dit_fixed_parameters(width: int, latent_dim: int) -> int:
    """The DiT outside its blocks: time embedding, latent projections, output norm and AdaLN."""
    time = SINUSOID * width + width + 2 * (width * width + width)
    latents = 2 * latent_dim * width + width + latent_dim
    return time + latents + 2 * width + 2 * (width * width + width)


def _cola_parameters(model: ColaModelSpec) -> ParameterCounts:
    vae, dit = model.vae, model.dit
    layers = vae.encoder_layers + vae.decoder_layers
    vae_core = layers * vae_layer_parameters(vae.hidden_size, vae.ffn_size, vae.qk_norm)
    vae_core += vae_fixed_parameters(vae.hidden_size, vae.latent_dim, vae.patch_size)
    inner = dit.num_heads * dit.head_dim
    dit_layer = dit_layer_parameters(
        dit.hidden_size, inner, dit.head_dim, dit.mlp_ratio, dit.qk_bias
    )
    adaln = dit.num_layers * adaln_layer_parameters(dit.hidden_size)
    dit_core = dit.num_layers * dit_layer + adaln
    dit_core += dit_fixed_parameters(dit.hidden_size, dit.latent_dim)
    head = vae.vocab_size * vae.hidden_size + vae.vocab_size
    embedding = (vae.vocab_size + 1) * vae.hidden_size + head
    return ParameterCounts(dit_core + vae_core, embedding, head, vae_core)


def train_flops_per_token(
    model: ModelSpec,
    objective: Objective,
    sequence_length: int,
    stage: str,
    convention: Convention,
) -> FlopsBreakdown:
    """Training FLOPs per token of a stage ("train"; "vae" and "joint" for Cola DLM)."""
    if isinstance(model, ColaModelSpec):
        if not isinstance(objective, ColaObjective):
            raise ValueError(f"objective of family {objective.family} for a cola model")
        if convention == "nominal":
            return FlopsBreakdown(_cola_nominal(model, objective, stage))
        return FlopsBreakdown(_cola_executed(model, objective, sequence_length, stage))
    if convention == "nominal":
        width, ffn = model.hidden_size, model.ffn_size
        blocks = model.num_layers * (4.0 * width * width + 3.0 * width * ffn)
        return FlopsBreakdown({"6N": 6.0 * (blocks + parameter_counts(model).head)})
    forward = trunk_forward(model, sequence_length)
    return FlopsBreakdown({name: TRAINED * value for name, value in forward.items()})


def trunk_forward(model: TransformerSpec, length: int) -> Components:
    """Forward FLOPs per token of AR (causal density) or LLaDA (every pair)."""
    width, layers = model.hidden_size, model.num_layers
    head_rows = model.vocab_size + (model.family == "ar")  # type: ignore[attr-defined]
    visible = (length + 1) / 2 if model.family == "ar" else length  # type: ignore[attr-defined]
    return {
        "attention_projections": layers * 8.0 * width * width,
        "attention_scores": layers * 4.0 * width * visible,
        "mlp": layers * 6.0 * width * model.ffn_size,
        "head": 2.0 * width * head_rows,
    }


def vae_forward(vae: TextVAESpec, length: int) -> Components:
    """Forward FLOPs per sequence of `length` tokens: encoder, decoder, their attention, head."""
    width, latents = vae.hidden_size, length // vae.patch_size
    block = vae.block_size if vae.attention == "block_causal" else 1
    dense = latents * (8.0 * width * width + 3.0 * width * vae.ffn_size)
    scores = 4.0 * width * latents * (latents + block) / 2
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


def dit_forward(dit: DiTSpec, latents: int, prompt_blocks: bool) -> Components:
    """Forward FLOPs per sequence of the training pass on [clean | noisy].

    The clean copy lacks the last block and, in the last layer, everything but its projections.
    A timestep a block of the noisy copy passes AdaLN (the clean copy's one is shared by a batch);
    with `prompt_blocks` timestep 0 too, and a product spreads them over the latents.
    """
    width, inner, block = dit.hidden_size, dit.num_heads * dit.head_dim, dit.block_size
    blocks, clean = latents // block, latents - block
    qkv, rest = 6.0 * width * inner, 2.0 * width * inner
    mlp = 4.0 * dit.mlp_ratio * width * width
    noisy_pairs = block * block * blocks * (blocks + 1) / 2
    clean_pairs = block * block * blocks * (blocks - 1) / 2
    layers, upper = dit.num_layers, dit.num_layers - 1
    distinct = blocks + prompt_blocks
    adaln_row = layers * 12.0 * width * width + 4.0 * width * width
    spread = 2.0 * distinct * latents * (6 * layers + 2) * width if prompt_blocks else 0.0
    time_row = 4.0 * width * width
    return {
        "attention_projections": layers * latents * (qkv + rest),
        "attention_scores": layers * 4.0 * inner * noisy_pairs,
        "mlp": layers * latents * mlp,
        "second_copy": clean * (layers * qkv + upper * (rest + mlp)),
        "second_copy_attention_scores": upper * 4.0 * inner * clean_pairs,
        "adaln": distinct * (adaln_row + time_row),
        "adaln_spread": spread,
        "inputs": (latents + clean) * 2.0 * dit.latent_dim * width
        + distinct * 2.0 * SINUSOID * width,
        "output": latents * 2.0 * dit.latent_dim * width,
    }


def _cola_executed(
    model: ColaModelSpec, objective: ColaObjective, length: int, stage: str
) -> Components:
    vae = vae_forward(model.vae, length)
    encoder = {name: value for name, value in vae.items() if name.startswith("vae_encoder")}
    masked = masked_pass_forward(model.vae, objective.stage1, length)
    trained_vae = {name: TRAINED * value for name, value in {**vae, **masked}.items()}
    if stage == "vae":
        return _per_token(trained_vae, length)
    stage2 = objective.stage2
    frozen = stage2.gradient_mode == "frozen_vae"
    total = {name: FROZEN * value for name, value in encoder.items()} if frozen else trained_vae
    if stage2.uses_reference:
        for name, value in encoder.items():
            total[name.replace("vae", "reference")] = FROZEN * value
    latents = length // model.vae.patch_size
    prompt_blocks = stage2.prompt_block_probability > 0
    for name, value in dit_forward(model.dit, latents, prompt_blocks).items():
        total[f"dit_{name}"] = (FIRST if name in NO_INPUT_GRADIENT else TRAINED) * value
    return _per_token(total, length)


def _cola_nominal(model: ColaModelSpec, objective: ColaObjective, stage: str) -> Components:
    vae, dit = model.vae, model.dit
    width, inner = dit.hidden_size, dit.num_heads * dit.head_dim
    vae_layer = 4.0 * vae.hidden_size**2 + 1.5 * vae.hidden_size * vae.ffn_size
    vae_blocks = (vae.encoder_layers + vae.decoder_layers) * vae_layer
    nominal = {"6N_vae": 6.0 * (vae_blocks + parameter_counts(model).head)}
    if stage == "joint":
        dit_layer = 4.0 * width * inner + 2.0 * dit.mlp_ratio * width * width
        nominal["6N_dit"] = 6.0 * dit.num_layers * dit_layer
    return nominal


def _per_token(components: Components, length: int) -> Components:
    return {name: value / length for name, value in components.items() if value}
