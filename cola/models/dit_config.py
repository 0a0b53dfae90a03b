"""Configuration of the DiT in the public release's keys."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class DiTConfig(PretrainedConfig):
    """Keys and defaults of the release's `cola_dit`, and three of our own.

    timestep_dtype: "bfloat16" rounds 1000 t before it is embedded, as the release's code does.
    adaln_rank: of AdaLN's projections (None: full). self_conditioning: whether a first pass
    estimates the clean latents for a second (model.md, Eqs. 57 to 59).
    """

    model_type = "cola_dit"

    def __init__(
        self,
        txt_in_channels: int = 16,
        txt_out_channels: int = 16,
        txt_dim: int = 2048,
        *,
        emb_dim: int = 2048,
        heads: int = 16,
        head_dim: int = 128,
        expand_ratio: float = 4,
        num_layers: int = 24,
        rope_dim: int = 96,
        qk_bias: bool = False,
        norm_eps: float = 1e-5,
        block_size: int = 16,
        patch_size: int = 1,
        init_std: float = 0.02,
        timestep_dtype: str = "float32",
        adaln_rank: int | None = None,
        self_conditioning: bool = False,
        **kwargs: Any,
    ) -> None:
        self.txt_in_channels = txt_in_channels
        self.txt_out_channels = txt_out_channels
        self.txt_dim = txt_dim
        self.emb_dim = emb_dim
        self.heads = heads
        self.head_dim = head_dim
        self.expand_ratio = expand_ratio
        self.num_layers = num_layers
        self.rope_dim = rope_dim
        self.qk_bias = qk_bias
        self.norm_eps = norm_eps
        self.block_size = block_size
        self.patch_size = patch_size
        self.init_std = init_std
        self.timestep_dtype = timestep_dtype
        self.adaln_rank = adaln_rank
        self.self_conditioning = self_conditioning
        super().__init__(**kwargs)

    @property
    def noise_width(self) -> int:
        """Normal numbers that a generated latent is made of."""
        return self.txt_in_channels
