"""Cola DLM (model.md, Eq. 1): the text VAE, the prior, and the border between their latents."""

from __future__ import annotations

from torch import Tensor, nn

from cola.models.dit import BlockCausalDiT
from cola.models.dit_config import DiTConfig
from cola.models.text_vae import TextVAE, TextVAEConfig
from cola.spec import DiTSpec, TextVAESpec


class ColaDLM(nn.Module):
    """p(x, z0) = p_theta(x | z0) p_psi(z0); q_phi(z0 | x) serves training and prompts."""

    def __init__(self, vae: TextVAE, dit: BlockCausalDiT) -> None:
        super().__init__()
        self.vae, self.dit = vae, dit

    sees_tokens = False  # blocks see the latents of those before them

    @property
    def codec(self) -> TextVAE:
        """What makes latents of tokens, and tokens of latents."""
        return self.vae

    @property
    def tokens_per_block(self) -> int:
        """Tokens per block of latents."""
        return int(self.dit.config.block_size * self.vae.config.patch_size)

    def to_dit(self, z_vae: Tensor) -> Tensor:
        """The DiT's normalisation of the VAE's latents (model.md, Eq. 18)."""
        config = self.vae.config
        return (z_vae - config.shifting_factor) * config.scaling_factor

    def as_history(self, z_Bnd: Tensor, tokens_BL: Tensor) -> Tensor:
        """The latents themselves."""
        return z_Bnd

    def from_dit(self, z_dit: Tensor) -> Tensor:
        """The inverse of `to_dit`."""
        config = self.vae.config
        return z_dit / config.scaling_factor + config.shifting_factor


def vae_config(spec: TextVAESpec, scaling_factor: float, shifting_factor: float) -> TextVAEConfig:
    """The release's configuration of a VAE specification."""
    return TextVAEConfig(
        vocab_size=spec.vocab_size,
        dim=spec.hidden_size,
        ffn_dim=spec.ffn_size,
        num_heads=spec.num_heads,
        encoder_num_blocks=spec.encoder_layers,
        decoder_num_blocks=spec.decoder_layers,
        latent_dim=spec.latent_dim,
        patch_size=spec.patch_size,
        block_size=spec.block_size,
        block_causal=spec.attention == "block_causal",
        causal=spec.attention == "causal",
        qk_norm=spec.qk_norm,
        post_norm=spec.post_norm,
        rope_theta=spec.rope_theta,
        scaling_factor=scaling_factor,
        shifting_factor=shifting_factor,
        log_snr=spec.log_snr,
    )


def dit_config(spec: DiTSpec) -> DiTConfig:
    """The release's configuration of a DiT specification."""
    return DiTConfig(
        txt_in_channels=spec.latent_dim,
        txt_out_channels=spec.outputs,
        txt_dim=spec.hidden_size,
        emb_dim=spec.hidden_size,
        heads=spec.num_heads,
        head_dim=spec.head_dim,
        expand_ratio=spec.mlp_ratio,
        num_layers=spec.num_layers,
        rope_dim=spec.rope_dim,
        qk_bias=spec.qk_bias,
        block_size=spec.block_size,
        adaln_rank=spec.adaln_rank,
        self_conditioning=spec.self_conditioning,
    )


def vae_sizes(config: TextVAEConfig) -> TextVAESpec:
    """The reverse of `vae_config`."""
    return TextVAESpec(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        ffn_size=config.ffn_dim,
        num_heads=config.num_heads,
        encoder_layers=config.encoder_num_blocks,
        decoder_layers=config.decoder_num_blocks,
        latent_dim=config.latent_dim,
        patch_size=config.patch_size,
        attention="block_causal" if config.block_causal and not config.causal else "causal",
        block_size=config.block_size,
        log_snr=config.log_snr,
        rope_theta=config.rope_theta,
        qk_norm=config.qk_norm,
        post_norm=config.post_norm,
    )


def dit_sizes(config: DiTConfig) -> DiTSpec:
    """The reverse of `dit_config`."""
    outputs = config.txt_out_channels
    return DiTSpec(
        latent_dim=config.txt_in_channels,
        hidden_size=config.emb_dim,
        num_heads=config.heads,
        head_dim=config.head_dim,
        mlp_ratio=config.expand_ratio,
        num_layers=config.num_layers,
        rope_dim=config.rope_dim,
        qk_bias=config.qk_bias,
        block_size=config.block_size,
        adaln_rank=config.adaln_rank,
        self_conditioning=config.self_conditioning,
        output_dim=outputs if outputs != config.txt_in_channels else None,
    )
