"""Text VAE: tokens <-> one latent per `patch_size` tokens (model.md, Eqs. 10 and 22).

Parameter names and shapes are the public release's. Shapes: B batch, L tokens, d latent width,
n = L / patch_size latents, C width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from cola.models.execution import emptied, filled, run_block
from cola.models.head import OutputHead, token_nll
from cola.models.kv_cache import CacheView, KVCache
from cola.models.layers import (
    LayerNorm,
    activation_dtype,
    attend,
    inverse_frequencies_on,
    merge_heads,
    rotary_angles,
    rotate_half,
    rotations,
)
from cola.models.masks import block_causal_mask

LOG_VARIANCE_RANGE = (-30.0, 20.0)  # the release's clamp, nats


class TextVAEConfig(PretrainedConfig):
    """Keys and defaults of the release's `cola_text_vae`, and `log_snr` (None: learned)."""

    model_type = "cola_text_vae"

    def __init__(
        self,
        vocab_size: int = 100278,
        dim: int = 1536,
        ffn_dim: int = 6144,
        *,
        num_heads: int = 12,
        encoder_num_blocks: int = 4,
        decoder_num_blocks: int = 4,
        latent_dim: int = 16,
        patch_size: int = 1,
        block_size: int = 4,
        block_causal: bool = True,
        causal: bool = False,
        qk_norm: bool = True,
        qk_bias: bool = False,
        bias: bool = True,
        post_norm: bool = True,
        encoder_last_ln: bool = True,
        layer_norm_eps: float = 1e-6,
        rope_theta: float = 500_000.0,
        scaling_factor: float = 1.0,
        shifting_factor: float = 0.0,
        init_std: float = 0.02,
        log_snr: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.dim = dim
        self.ffn_dim = ffn_dim
        self.num_heads = num_heads
        self.encoder_num_blocks = encoder_num_blocks
        self.decoder_num_blocks = decoder_num_blocks
        self.latent_dim = latent_dim
        self.patch_size = patch_size
        self.block_size = block_size
        self.block_causal = block_causal
        self.causal = causal
        self.qk_norm = qk_norm
        self.qk_bias = qk_bias
        self.bias = bias
        self.post_norm = post_norm
        self.encoder_last_ln = encoder_last_ln
        self.layer_norm_eps = layer_norm_eps
        self.rope_theta = rope_theta
        self.scaling_factor = scaling_factor
        self.shifting_factor = shifting_factor
        self.init_std = init_std
        self.log_snr = log_snr
        super().__init__(**kwargs)

    @property
    def visible_block(self) -> int:
        """Latents per attention block (`masks.visible`); 1 is strictly causal."""
        return self.block_size if self.block_causal and not self.causal else 1

    @property
    def mask_token_id(self) -> int:
        """The extra row of the embedding table."""
        return self.vocab_size


class VAEBlock(nn.Module):
    """Attention and SwiGLU with residual connections, pre-norm or the release's post-norm."""

    def __init__(self, config: TextVAEConfig) -> None:
        super().__init__()
        width, eps = config.dim, config.layer_norm_eps
        self.num_heads, self.post_norm = config.num_heads, config.post_norm
        self.qkv_proj = nn.Linear(width, 3 * width, bias=config.qk_bias)
        self.q_norm = LayerNorm(width, eps=eps) if config.qk_norm else nn.Identity()
        self.k_norm = LayerNorm(width, eps=eps) if config.qk_norm else nn.Identity()
        self.attn_out_proj = nn.Linear(width, width, bias=config.bias)
        self.norm_attn = LayerNorm(width, eps=eps)
        self.ffn_proj = nn.Linear(width, config.ffn_dim, bias=config.bias)
        self.ffn_out = nn.Linear(config.ffn_dim // 2, width, bias=config.bias)
        self.norm_ffn = LayerNorm(width, eps=eps)

    def forward(
        self,
        x_BnC: Tensor,
        rotary: Tensor,
        mask: Tensor | None,
        *,
        cache: CacheView | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(B, n, C) -> (B, n, C); with a cache the latents also see its entries, and join them."""
        attention = self.attention(
            x_BnC if self.post_norm else self.norm_attn(x_BnC),
            rotary,
            mask,
            cache=cache,
            layer=layer,
        )
        if self.post_norm:
            # As the release does: the residual stream is normalised, not the attention's output.
            x_BnC = self.norm_attn(x_BnC) + attention
            return x_BnC + self.norm_ffn(self.feed_forward(x_BnC))
        x_BnC = x_BnC + attention
        return x_BnC + self.feed_forward(self.norm_ffn(x_BnC))

    def attention(
        self,
        x_BnC: Tensor,
        rotary: Tensor,
        mask: Tensor | None,
        *,
        cache: CacheView | None,
        layer: int,
    ) -> Tensor:
        """Multi-head attention, QK LayerNorm over the full width.

        `mask` None is causal; with a cache, all that it has is visible.
        """
        q, k, v = self.qkv_proj(x_BnC).chunk(3, dim=-1)
        heads = (self.num_heads, -1)
        q = rotate_half(self.q_norm(q).unflatten(-1, heads), rotary).transpose(1, 2)
        k = rotate_half(self.k_norm(k).unflatten(-1, heads), rotary).transpose(1, 2)
        v = v.unflatten(-1, heads).transpose(1, 2)
        if cache is not None:
            k, v = (part.to(q.dtype) for part in cache.update(k, v, layer))
        causal = mask is None and cache is None
        return self.attn_out_proj(merge_heads(attend(q, k, v, mask=mask, causal=causal)))

    def feed_forward(self, x_BnC: Tensor) -> Tensor:
        """SwiGLU: silu(gate) * x, where x and gate are the halves of one projection."""
        x, gate = self.ffn_proj(x_BnC).chunk(2, dim=-1)
        return self.ffn_out(F.silu(gate) * x)


class Encoder(nn.Module):
    """q(z0 | x) (model.md, Eq. 10): tokens -> mean and log-variance."""

    def __init__(self, config: TextVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size + 1, config.dim)
        self.patch_embedder = nn.Conv1d(
            config.dim, config.dim, config.patch_size, stride=config.patch_size
        )
        self.blocks = nn.ModuleList(VAEBlock(config) for _ in range(config.encoder_num_blocks))
        self.final_layer = nn.Linear(config.dim, 2 * config.latent_dim)

    def forward(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L), L a multiple of patch_size -> mean, log-variance (B, n, d), float32."""
        config = self.config
        x_BCn = self.patch_embedder(self.wte(tokens_BL).transpose(1, 2))
        x_BnC = filled(x_BCn.transpose(1, 2).contiguous())
        rotary, mask = sequence_geometry(config, x_BnC.shape[1], x_BnC.device)
        for block in self.blocks:
            x_BnC = run_block(VAEBlock.forward, block, x_BnC, rotary, mask)
        x_BnC = emptied(x_BnC, len(tokens_BL))
        mean, log_variance = self.final_layer(x_BnC).float().chunk(2, dim=-1)
        if config.encoder_last_ln:
            mean = F.layer_norm(mean, mean.shape[-1:], eps=config.layer_norm_eps)
        if config.log_snr is not None:
            # E[mu^2] = 1 after the LayerNorm, so logSNR = -log sigma^2 (model.md, Eq. 13).
            log_variance = torch.full_like(log_variance, -config.log_snr)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


class Decoder(nn.Module):
    """p(x | z0) (model.md, Eq. 22): latents -> logits of their tokens."""

    def __init__(self, config: TextVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.in_layer = nn.Linear(config.latent_dim, config.dim)
        self.blocks = nn.ModuleList(VAEBlock(config) for _ in range(config.decoder_num_blocks))
        self.unpatch_layer = nn.Linear(config.dim, config.dim * config.patch_size)
        self.final_norm = LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.final_layer = OutputHead(config.dim, config.vocab_size)

    def forward(self, z_Bnd: Tensor) -> Tensor:
        """Latents (B, n, d) -> logits (B, n * patch_size, V)."""
        logits: Tensor = self.final_layer(self.features(z_Bnd))
        return logits

    def features(self, z_Bnd: Tensor) -> Tensor:
        """Latents (B, n, d) -> inputs of the output head, (B, n * patch_size, C)."""
        rotary, mask = sequence_geometry(self.config, z_Bnd.shape[1], z_Bnd.device)
        x_BnC = filled(self.in_layer(z_Bnd.to(self.in_layer.weight.dtype)))
        for block in self.blocks:
            x_BnC = run_block(VAEBlock.forward, block, x_BnC, rotary, mask)
        return self.unpatched(emptied(x_BnC, len(z_Bnd)))

    def token_nll(self, z_Bnd: Tensor, tokens_BL: Tensor) -> Tensor:
        """-log p of each token given the latents, in nats, (B, L)."""
        return token_nll(self.final_layer, self.features(z_Bnd), tokens_BL)

    def write(self, z_Bnd: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, n * patch_size, V) of new latents behind the cache; see `write_hidden`."""
        logits: Tensor = self.final_layer(self.unpatched(self.write_hidden(z_Bnd, cache)))
        return logits

    def write_hidden(self, z_Bnd: Tensor, cache: KVCache) -> Tensor:
        """The last block's output (B, n, C) for new latents behind the cache.

        Their keys and values are written, for `KVCache.advance` to keep. n and the cached lengths
        must be multiples of the visible block.
        """
        count = z_Bnd.shape[1]
        rotary = rope_rotations(self.config, cache.positions(count))
        view = cache.view(count, self.config.visible_block)
        x_BnC = self.in_layer(z_Bnd.to(self.in_layer.weight.dtype))
        for layer, block in enumerate(self.blocks):
            x_BnC = block(x_BnC, rotary, view.mask, cache=view, layer=layer)
        return x_BnC

    def unpatched(self, x_BnC: Tensor) -> Tensor:
        """Unfold latents into their tokens, and normalise: (B, n, C) -> (B, n * patch_size, C)."""
        # The release lays the patch's tokens out innermost.
        x_BnCP = self.unpatch_layer(x_BnC).unflatten(-1, (-1, self.config.patch_size))
        normed: Tensor = self.final_norm(x_BnCP.transpose(2, 3).flatten(1, 2))
        return normed

    def new_cache(
        self, batch: int, capacity: int, like: Tensor, *, step: int | None = None
    ) -> KVCache:
        """An empty cache for `capacity` latents per sample, on the device of `like`."""
        config = self.config
        return KVCache(
            config.decoder_num_blocks,
            batch,
            config.num_heads,
            capacity=capacity,
            head_dim=config.dim // config.num_heads,
            device=like.device,
            dtype=activation_dtype(self.in_layer.weight),
            step=step,
        )


class TextVAE(PreTrainedModel):
    """The VAE as a Hugging Face model with the release's parameter names."""

    config_class = TextVAEConfig
    base_model_prefix = ""

    def __init__(self, config: TextVAEConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_normal(module, self.config.init_std)

    def forward(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, log-variance and the logits decoded from the mean."""
        mean, log_variance = self.encoder(tokens_BL)
        return mean, log_variance, self.decoder(mean)


def init_normal(module: nn.Module, std: float) -> None:
    """N(0, std^2) weights, zero biases, unit norms, as Hugging Face's `_init_weights` hooks do."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    bias = getattr(module, "bias", None)
    if isinstance(module, nn.Linear | nn.Conv1d | nn.LayerNorm) and bias is not None:
        nn.init.zeros_(bias)
    if isinstance(module, nn.LayerNorm) and module.weight is not None:
        nn.init.ones_(module.weight)


def rope_rotations(config: TextVAEConfig, position: Tensor) -> Tensor:
    """Rotations of the rotary embedding over the full head width, at these positions."""
    width = config.dim // config.num_heads
    frequencies = inverse_frequencies_on(position.device, width, config.rope_theta)
    return rotations(rotary_angles(position, frequencies), width)


def sequence_geometry(
    config: TextVAEConfig, length: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Rotations and mask of a whole sequence of `length` latents (mask None: strictly causal)."""
    rotary = rope_rotations(config, torch.arange(length, device=device))
    if config.visible_block == 1:
        return rotary, None
    return rotary, block_causal_mask(length, config.visible_block, device)


AutoConfig.register(TextVAEConfig.model_type, TextVAEConfig)
AutoModel.register(TextVAEConfig, TextVAE)
