"""Sizes of the networks that families are made of, and kinds of priors (docs/model.md)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cola.spec.base import SparseSpec, Spec


class TransformerSpec(Spec):
    """A trunk of Llama blocks (RMSNorm, RoPE, SwiGLU with 3 matrices)."""

    hidden_size: PositiveInt = Field(description="Width of the residual stream.")
    ffn_size: PositiveInt = Field(description="Inner width of the SwiGLU MLP.")
    num_layers: PositiveInt = Field(description="Number of blocks.")
    num_heads: PositiveInt = Field(description="Attention heads of a block.")
    vocab_size: PositiveInt = Field(description="Entries of the tokenizer.")
    rope_theta: PositiveFloat = Field(
        default=10_000.0, description="Base of the rotary position embedding's wavelengths."
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerSpec:
        check_heads(self.hidden_size, self.num_heads)
        return self


class TextVAESpec(Spec):
    """Text VAE: one latent of `latent_dim` per `patch_size` tokens (model.md, Eq. 10)."""

    vocab_size: PositiveInt = Field(description="Entries of the tokenizer.")
    hidden_size: PositiveInt = Field(description="Width of encoder and decoder.")
    ffn_size: PositiveInt = Field(
        description="Width of the fused SwiGLU projection: twice the MLP's inner width."
    )
    num_heads: PositiveInt = Field(description="Attention heads of a block.")
    encoder_layers: PositiveInt = Field(description="Blocks of the encoder.")
    decoder_layers: PositiveInt = Field(description="Blocks of the decoder.")
    latent_dim: PositiveInt = Field(default=16, description="Dimensions of a latent.")
    patch_size: PositiveInt = Field(default=1, description="Tokens that one latent encodes.")
    attention: Literal["causal", "block_causal"] = Field(
        default="causal",
        description=(
            "`causal`: a latent sees itself and those before it. `block_causal`: it also sees the "
            "rest of its block of `block_size` latents."
        ),
    )
    block_size: PositiveInt = Field(
        default=1, description="Latents of an attention block under `block_causal` attention."
    )
    log_snr: float | None = Field(
        default=None,
        description=(
            "Fixed log(E[mu^2] / E[sigma^2]) of the posterior in nats, or null to learn its "
            "variance."
        ),
    )
    rope_theta: PositiveFloat = Field(
        default=500_000.0, description="Base of the rotary position embedding's wavelengths."
    )
    qk_norm: bool = Field(
        default=True, description="Whether queries and keys pass a LayerNorm before attention."
    )
    post_norm: bool = Field(
        default=True,
        description="Whether blocks normalise behind their sublayers (true) or in front of them.",
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> TextVAESpec:
        check_heads(self.hidden_size, self.num_heads)
        if self.ffn_size % 2:
            raise ValueError(f"ffn_size={self.ffn_size} must be even (fused SwiGLU)")
        return self

    @property
    def visible_block(self) -> int:
        """Latents that see each other; 1 is strictly causal."""
        return self.block_size if self.attention == "block_causal" else 1


class DiTSpec(SparseSpec):
    """Block-causal diffusion transformer over latents (model.md, Eq. 17)."""

    sparse_keys: ClassVar[tuple[str, ...]] = ("adaln_rank", "self_conditioning", "output_dim")

    hidden_size: PositiveInt = Field(description="Width of the residual stream.")
    num_layers: PositiveInt = Field(description="Number of blocks.")
    num_heads: PositiveInt = Field(description="Attention heads of a block.")
    head_dim: PositiveInt = Field(description="Channels of a head.")
    rope_dim: PositiveInt = Field(
        description="Channels of a head that carry the rotary position embedding."
    )
    latent_dim: PositiveInt = Field(default=16, description="Dimensions of a latent.")
    block_size: PositiveInt = Field(
        default=16, description="Latents that are denoised together and see each other."
    )
    mlp_ratio: PositiveInt | PositiveFloat = Field(
        default=4, description="Inner width of the MLP over its width; their product is rounded."
    )
    qk_bias: bool = Field(
        default=False, description="Whether the attention's projections have biases."
    )
    adaln_rank: PositiveInt | None = Field(
        default=None,
        description="Channels through which AdaLN's projections pass; null: none, they are full.",
    )
    self_conditioning: bool = Field(
        default=False,
        description="Whether the network is given an estimate of the clean latents, its own.",
    )
    output_dim: PositiveInt | None = Field(
        default=None,
        description="Numbers that the network says of a latent; null: a velocity, `latent_dim`.",
    )

    @property
    def outputs(self) -> int:
        """Numbers that the network says of a latent."""
        return self.latent_dim if self.output_dim is None else self.output_dim

    @model_validator(mode="after")
    def _rope_fits(self) -> DiTSpec:
        if self.rope_dim % 2 or self.rope_dim > self.head_dim:
            raise ValueError(
                f"rope_dim={self.rope_dim} must be even and at most head_dim={self.head_dim}"
            )
        return self

    @model_validator(mode="after")
    def _rank_is_low(self) -> DiTSpec:
        if self.adaln_rank is not None and self.adaln_rank >= self.hidden_size:
            raise ValueError(
                f"adaln_rank={self.adaln_rank} must be below hidden_size={self.hidden_size}; give "
                "null for full projections"
            )
        return self


class FlowPrior(Spec):
    """A continuous flow from noise (model.md, Eqs. 3 to 9)."""

    kind: Literal["flow"] = Field(
        default="flow", description="A flow from noise, trained by flow matching."
    )


class MixturePrior(Spec):
    """A Gaussian mixture over a block's latents, given the blocks before it (model.md, Eq. 61)."""

    kind: Literal["mixture"] = Field(
        default="mixture",
        description="A mixture of Gaussians over all latents of a block, from one pass behind the "
        "blocks before it: its density is exact, and its loss.",
    )
    components: PositiveInt = Field(
        default=16,
        description="Gaussians of the mixture; given one of them, a block's latents are "
        "independent.",
    )

    def outputs(self, latent_dim: int) -> int:
        """Numbers that the network says of a latent: weights, means, scales."""
        return self.components * (2 * latent_dim + 1)


class DriftingPrior(Spec):
    """A generator of one step, trained by drifting (model.md, Eqs. 65 to 67)."""

    kind: Literal["drifting"] = Field(
        default="drifting",
        description="A generator that makes a block of noise in one pass, trained by a field that "
        "draws its samples to the text's latents and apart from one another; it has no likelihood.",
    )


PriorSpec = Annotated[FlowPrior | MixturePrior | DriftingPrior, Field(discriminator="kind")]


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Raise a ValueError unless heads have an even width, which RoPE needs."""
    if hidden_size % (2 * num_heads):
        raise ValueError(
            f"hidden_size={hidden_size} must be a multiple of 2 * num_heads="
            f"{2 * num_heads} (even head width for RoPE)"
        )
