"""Diffusion over token embeddings: a flow whose velocity follows from probabilities of tokens
(model.md, Eqs. 45 to 48).

A token's latent is its embedding with a little noise. The trunk says of each noisy latent which
tokens it may be of, and this is all that it says: the flow's velocity, and the rounding of latents
to tokens, follow from the embeddings. Blocks see the embeddings of the tokens before them.
Shapes: B batch, L tokens and latents, d embedding width, C width, V vocabulary, N tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from cola.models.adaln import TimestepEmbeddings
from cola.models.cola_dlm import dit_config
from cola.models.dit import BlockCausalDiT
from cola.models.dit_config import DiTConfig
from cola.models.head import OutputHead, Scored, costs
from cola.models.kv_cache import KVCache
from cola.spec import DiTSpec

# Of the embeddings before they are normalised. Chosen: Adam moves a weight by about its rate a
# step, so that at rates of 1e-3 an embedding turns within some hundred steps.
TABLE_STD = 0.3
EPS = 1e-6  # of the mean square that an embedding is divided by


class EmbeddingDiffusionConfig(DiTConfig):
    """Sizes of an `EmbeddingDiffusion`; `log_snr` is that of the latents (model.md, Eq. 45)."""

    model_type = "cola_embedding_diffusion"
    scaling_factor = 1.0  # of the latents: they are the flow's as they are
    mask_token_id = 0  # stands at places that are not known, where it is never read

    def __init__(self, vocab_size: int = 0, log_snr: float = 3.0, **kwargs: Any) -> None:
        self.vocab_size, self.log_snr = vocab_size, log_snr
        super().__init__(**kwargs)


class Embeddings(nn.Module):
    """The table of embeddings, each of mean square 1."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def forward(self) -> Tensor:
        """All of them, (V, d) float32."""
        weight = self.weight.float()
        return weight * (weight.square().mean(-1, keepdim=True) + EPS).rsqrt()


class TokenHead(OutputHead):
    """Logits of a noisy latent's token: the trunk's and the latent's own (model.md, Eq. 46)."""

    def forward(
        self,
        features: Tensor,
        scored: Scored | None = None,
        beside: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        """See `OutputHead`; costs are of the logits with the product of `beside` added to them:
        (N, d) of the latents, and the table (V, d)."""
        if scored is None or beside is None:
            return super().forward(features, scored)
        evidence_Nd, table_Vd = beside
        inputs = torch.cat([features, evidence_Nd.to(features.dtype)], dim=-1)
        return costs(inputs, torch.cat([self.weight, table_Vd], dim=1), None, scored)


class EmbeddingDiffusion(BlockCausalDiT):
    """p(x, z0) = p_psi(z0^(b) | x^(<b)) p(x^(b) | z0^(b)), block after block."""

    config_class = EmbeddingDiffusionConfig
    sees_tokens = True

    def __init__(self, config: EmbeddingDiffusionConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config.vocab_size, config.txt_in_channels)
        self.lm_head = TokenHead(config.txt_dim, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Embeddings):
            nn.init.normal_(module.weight, std=TABLE_STD)

    @property
    def dit(self) -> EmbeddingDiffusion:
        """The velocity field: the model itself."""
        return self

    @property
    def codec(self) -> EmbeddingCodec:
        """Embedding and rounding."""
        return EmbeddingCodec(self)

    @property
    def tokens_per_block(self) -> int:
        """Tokens that are denoised together."""
        return int(self.config.block_size)

    @property
    def own_variance(self) -> float:
        """Of a latent round its embedding, in each dimension (model.md, Eq. 45)."""
        return math.exp(-self.config.log_snr)

    def to_dit(self, z: Tensor) -> Tensor:
        """Latents are the flow's as they are."""
        return z

    def from_dit(self, z: Tensor) -> Tensor:
        """Latents are the flow's as they are."""
        return z

    def as_history(self, z_Bnd: Tensor, tokens_BL: Tensor) -> Tensor:
        """The tokens' embeddings."""
        return self.embedded(tokens_BL)

    def embedded(self, tokens_BL: Tensor) -> Tensor:
        """Embeddings of tokens, (B, L, d) float32."""
        return F.embedding(tokens_BL, self.embeddings())

    def noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of the embedding in z_t, and the variance round that (model.md, Eq. 46)."""
        left = 1 - t
        return left, left.square() * self.own_variance + t.square()

    def velocity(
        self, features_BnC: Tensor, z_Bnd: Tensor, timesteps: TimestepEmbeddings
    ) -> Tensor:
        """The flow's, from the tokens' probabilities (model.md, Eqs. 46 and 47)."""
        assert timesteps.t_BK is not None
        t_BK = timesteps.t_BK
        t_Bn1 = t_BK.repeat_interleave(z_Bnd.shape[1] // t_BK.shape[1], dim=1)[..., None].float()
        z_Bnd, left, variance = z_Bnd.float(), *self.noise(t_Bn1)
        trunk_BnV, table_Vd = self.lm_head(features_BnC), self.embeddings()
        with torch.autocast(z_Bnd.device.type, enabled=False):  # large numbers of small difference
            logits_BnV = trunk_BnV.float() + (left / variance * z_Bnd) @ table_Vd.T
            mean_Bnd = logits_BnV.softmax(-1) @ table_Vd
        # Mean of z1 - z0, which are Gaussian given z_t and the token.
        slope = (t_Bn1 - left * self.own_variance) / variance
        return slope * (z_Bnd - left * mean_Bnd) - mean_Bnd


class EmbeddingCodec:
    """q(z0 | x), embeddings with noise, and p(x | z0), the embedding that a latent lies at."""

    def __init__(self, model: EmbeddingDiffusion) -> None:
        self.config = model.config
        self.decoder, self._model = RoundingDecoder(model), model

    def encoder(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the tokens' latents, (B, L, d) each (model.md, Eq. 45)."""
        mean = self._model.embedded(tokens_BL)
        return mean, torch.full_like(mean, -self.config.log_snr)

    def __call__(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, log-variance and the logits decoded from the mean."""
        mean, log_variance = self.encoder(tokens_BL)
        return mean, log_variance, self.decoder.logits(mean)


class RoundingDecoder:
    """p(x | z0) (model.md, Eq. 48): Bayes' rule for embeddings with noise, each as likely."""

    def __init__(self, model: EmbeddingDiffusion) -> None:
        self._model = model

    def logits(self, z_Bnd: Tensor) -> Tensor:
        """(B, n, V), float32."""
        with torch.autocast(z_Bnd.device.type, enabled=False):
            return z_Bnd.float() @ self._weight().T

    def token_nll(self, z_Bnd: Tensor, tokens_BL: Tensor) -> Tensor:
        """-log p of each token given the latents, in nats, (B, L)."""
        with torch.autocast(z_Bnd.device.type, enabled=False):
            z_Nd = z_Bnd.float().flatten(0, 1)
            nll_N, _ = costs(z_Nd, self._weight(), None, Scored(tokens_BL.flatten()))
        return nll_N.view_as(tokens_BL)

    def _weight(self) -> Tensor:
        return self._model.embeddings() / self._model.own_variance

    def write(self, z_Bnd: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, n, V) of latents, which do not depend on those before them."""
        return self.logits(z_Bnd)

    def write_hidden(self, z_Bnd: Tensor, cache: KVCache) -> Tensor:
        """Nothing is remembered of latents."""
        return z_Bnd

    def new_cache(
        self, batch: int, capacity: int, like: Tensor, *, step: int | None = None
    ) -> KVCache:
        """A cache without layers, which counts latents alone."""
        return KVCache(
            0,
            batch,
            1,
            capacity=capacity,
            head_dim=1,
            device=like.device,
            dtype=torch.float32,
            step=step,
        )


def build_embedding_diffusion(vocab_size: int, dit: DiTSpec, log_snr: float) -> EmbeddingDiffusion:
    """A freshly initialised model of these sizes."""
    sizes = dit_config(dit).to_diff_dict()
    del sizes["model_type"]
    config = EmbeddingDiffusionConfig(vocab_size, log_snr, **sizes)
    return EmbeddingDiffusion(config)


AutoConfig.register(EmbeddingDiffusionConfig.model_type, EmbeddingDiffusionConfig)
AutoModel.register(EmbeddingDiffusionConfig, EmbeddingDiffusion)
