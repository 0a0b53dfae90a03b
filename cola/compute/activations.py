"""Activations that a token of a micro-batch keeps for the backward pass, by network (torch-free).

Bytes, an estimate from above, by the tensors that each kind of layer keeps. With `checkpoints`
(activation checkpointing by block) a layer keeps its inputs, and one layer at a time all the rest.
"""

from __future__ import annotations

from typing import Literal

from cola.spec.networks import DiTSpec, TextVAESpec, TransformerSpec

Precision = Literal["float32", "bfloat16"]

# Bytes a token and layer keeps in float32, per unit of width and per unit of MLP width: 4 a kept
# number, and a little more than autograd was seen to keep (the tests measure it).
TRUNK, VAE, DIT = (48, 16), (42, 10.5), (84, 8)
# Of them under bfloat16 autocast, where norms and residuals stay in float32; measured likewise.
TRUNK_HALF, VAE_HALF, DIT_HALF = 0.75, 0.6, 0.6
# Of a layer: what the last one spares on the clean copy, of which only keys and values are read.
UNREAD = 0.6
# Of a trunk behind clean keys and values: those that chunks of queries gather, up to 512 tokens of
# text on a CPU (a GPU gathers 16), measured; and its share under bfloat16 autocast.
GATHERED, BLOCKS_HALF = 24, 0.63
LOGIT = {"float32": 8, "bfloat16": 10}  # bytes a logit: its own type, float32, its gradient


def logit_bytes(vocab_size: int, precision: Precision) -> float:
    """Of one token's logits."""
    return LOGIT[precision] * vocab_size


def trunk_bytes(
    trunk: TransformerSpec, precision: Precision, *, checkpoints: bool = False
) -> float:
    """Of one token in a trunk, its logits left out."""
    width, ffn = TRUNK
    layer = _scale(precision, TRUNK_HALF) * (width * trunk.hidden_size + ffn * trunk.ffn_size)
    inputs = 4 * trunk.hidden_size  # the residual stream, in float32 under autocast too
    kept = _of_layers(trunk.num_layers, layer, inputs=inputs, checkpoints=checkpoints)
    if checkpoints:  # embeddings, and the last norm
        kept += 4 * 4 * trunk.hidden_size
    return kept


def block_trunk_bytes(
    trunk: TransformerSpec, precision: Precision, *, checkpoints: bool = False
) -> float:
    """Of one token in a trunk through which two copies of the text pass, its logits left out."""
    width, ffn = TRUNK
    half = _scale(precision, BLOCKS_HALF)
    copy = half * ((width + GATHERED) * trunk.hidden_size + ffn * trunk.ffn_size)
    if not checkpoints:
        return (2 * trunk.num_layers - UNREAD) * copy
    # Both copies' residual streams, and the clean keys and values, which the noisy copy reads.
    inputs = 4 * 2 * 2 * trunk.hidden_size
    kept = _of_layers(trunk.num_layers, 2 * copy, inputs=inputs, checkpoints=True)
    return kept + 2 * 4 * 4 * trunk.hidden_size  # embeddings, and the last norm


def encoder_share(vae: TextVAESpec) -> float:
    """The encoder's share of the VAE's layers."""
    return vae.encoder_layers / (vae.encoder_layers + vae.decoder_layers)


def vae_bytes(
    vae: TextVAESpec, precision: Precision, copies: float, *, checkpoints: bool = False
) -> float:
    """Of one token of text in encoder and decoder, of `copies` of the sequence; logits left out."""
    width, ffn = VAE
    layers = vae.encoder_layers + vae.decoder_layers
    layer = _scale(precision, VAE_HALF) * (width * vae.hidden_size + ffn * vae.ffn_size)
    inputs = 4 * vae.hidden_size
    kept = _of_layers(layers, layer, inputs=inputs, checkpoints=checkpoints)
    if checkpoints:  # embeddings, the patches' convolution, and the decoder's last norm
        kept += 4 * 8 * vae.hidden_size * vae.patch_size
    return copies * kept / vae.patch_size


def dit_bytes(
    dit: DiTSpec,
    precision: Precision,
    patch_size: int,
    *,
    copies: int = 2,
    checkpoints: bool = False,
) -> float:
    """Of one token of text in the DiT, through which so many copies of the latents pass: the clean
    one, and others behind it."""
    width, ffn = DIT
    copy = _scale(precision, DIT_HALF) * (width + ffn * dit.mlp_ratio) * dit.hidden_size
    if not checkpoints:
        return (copies * dit.num_layers - UNREAD) * copy / patch_size
    # All copies' residual streams, and the clean keys and values, which the noisy ones read.
    inputs = 4 * copies * (dit.hidden_size + dit.num_heads * dit.head_dim)
    kept = _of_layers(dit.num_layers, copies * copy, inputs=inputs, checkpoints=True)
    return kept / patch_size


def _of_layers(layers: int, layer: float, *, inputs: float, checkpoints: bool) -> float:
    # Half as much again for the gradients of the layer that is computed again (measured).
    return layers * inputs + 1.5 * layer if checkpoints else layers * layer


def _scale(precision: Precision, half: float) -> float:
    return half if precision == "bfloat16" else 1.0
