"""Sizes of the networks of the three families (docs/model.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cola.spec.base import Spec


class TransformerSpec(Spec):
    """The trunk shared by AR and LLaDA: Llama blocks (RMSNorm, RoPE, SwiGLU with 3 matrices)."""

    hidden_size: PositiveInt
    ffn_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    vocab_size: PositiveInt
    rope_theta: PositiveFloat = 10_000.0

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerSpec:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 2 * num_heads="
                f"{2 * self.num_heads} (even head width for RoPE)"
            )
        return self


class ARModelSpec(TransformerSpec):
    """Causal next-token model; opens in plain `transformers` as a Llama."""

    family: Literal["ar"] = "ar"


class LLaDAModelSpec(TransformerSpec):
    """Bidirectional masked-diffusion model; its embedding has one more row, the mask token."""

    family: Literal["llada"] = "llada"


class TextVAESpec(Spec):
    """Text VAE: one latent of `latent_dim` per `patch_size` tokens (model.md, Eq. 10).

    `ffn_size` is the fused SwiGLU width (inner width is half of it). `log_snr` None learns the
    posterior's variance; a number fixes logSNR = -log sigma^2.
    """

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    ffn_size: PositiveInt
    num_heads: PositiveInt
    encoder_layers: PositiveInt
    decoder_layers: PositiveInt
    latent_dim: PositiveInt = 16
    patch_size: PositiveInt = 1
    attention: Literal["causal", "block_causal"] = "causal"
    block_size: PositiveInt = 1
    log_snr: float | None = None
    rope_theta: PositiveFloat = 500_000.0
    qk_norm: bool = True
    post_norm: bool = True

    @model_validator(mode="after")
    def _sizes_fit(self) -> TextVAESpec:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 2 * num_heads="
                f"{2 * self.num_heads} (even head width for RoPE)"
            )
        if self.ffn_size % 2:
            raise ValueError(f"ffn_size={self.ffn_size} must be even (fused SwiGLU)")
        return self


class DiTSpec(Spec):
    """Block-causal diffusion transformer over latents (model.md, Eq. 17)."""

    hidden_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    head_dim: PositiveInt
    rope_dim: PositiveInt
    latent_dim: PositiveInt = 16
    block_size: PositiveInt = 16
    mlp_ratio: PositiveInt = 4
    qk_bias: bool = False

    @model_validator(mode="after")
    def _rope_fits(self) -> DiTSpec:
        if self.rope_dim % 2 or self.rope_dim > self.head_dim:
            raise ValueError(
                f"rope_dim={self.rope_dim} must be even and at most head_dim={self.head_dim}"
            )
        return self


class ColaModelSpec(Spec):
    """Cola DLM: the VAE and the DiT, with the latents' normalisation at their border.

    z_DiT = (z_VAE - shifting_factor) * scaling_factor (model.md, Eq. 18).
    """

    family: Literal["cola"] = "cola"
    vae: TextVAESpec
    dit: DiTSpec
    scaling_factor: PositiveFloat = 1.0
    shifting_factor: float = 0.0

    @model_validator(mode="after")
    def _latents_agree(self) -> ColaModelSpec:
        if self.vae.latent_dim != self.dit.latent_dim:
            raise ValueError(
                f"vae.latent_dim={self.vae.latent_dim} must equal "
                f"dit.latent_dim={self.dit.latent_dim}"
            )
        return self

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer."""
        return self.vae.vocab_size


ModelSpec = Annotated[ARModelSpec | LLaDAModelSpec | ColaModelSpec, Field(discriminator="family")]
