"""What sampling and likelihood ask of a model that diffuses the latents of a text, block by block.

Shapes: B batch, L tokens, n latents, d latent width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from cola.models.dit import BlockCausalDiT
from cola.models.kv_cache import KVCache


class LatentEncoder(Protocol):
    """q(z0 | x)."""

    def __call__(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the tokens' latents, (B, n, d) each, float32."""


class LatentDecoder(Protocol):
    """p(x | z0)."""

    def token_nll(self, z_Bnd: Tensor, tokens_BL: Tensor) -> Tensor:
        """-log p of each token given the latents, in nats, (B, L)."""

    def write(self, z_Bnd: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, L, V) of new latents' tokens behind the cache, which they join."""

    def write_hidden(self, z_Bnd: Tensor, cache: KVCache) -> Tensor:
        """New latents join the cache without logits."""

    def new_cache(
        self, batch: int, capacity: int, like: Tensor, *, step: int | None = None
    ) -> KVCache:
        """An empty cache for `capacity` latents per sample, on the device of `like`."""


class LatentCodec(Protocol):
    """Tokens to latents and back; `config` has `patch_size`, `vocab_size`, `mask_token_id`,
    `log_snr` and `scaling_factor`."""

    @property
    def config(self) -> Any: ...

    @property
    def encoder(self) -> LatentEncoder: ...

    @property
    def decoder(self) -> LatentDecoder: ...

    def __call__(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, log-variance, and the logits (B, L, V) decoded from the mean."""


class LatentModel(Protocol):
    """p(x, z0), blocks of z0 from a velocity field, and tokens from z0."""

    # Whether later blocks see a block's tokens alone: what is known of a text is then no latent.
    sees_tokens: bool

    @property
    def dit(self) -> BlockCausalDiT: ...

    @property
    def codec(self) -> LatentCodec: ...

    @property
    def tokens_per_block(self) -> int: ...

    def to_dit(self, z: Tensor) -> Tensor:
        """The velocity field's normalisation of the codec's latents (model.md, Eq. 18)."""

    def from_dit(self, z: Tensor) -> Tensor:
        """The inverse of `to_dit`."""

    def as_history(self, z_Bnd: Tensor, tokens_BL: Tensor) -> Tensor:
        """What later blocks see of these latents and their tokens, in `to_dit`'s normalisation."""
