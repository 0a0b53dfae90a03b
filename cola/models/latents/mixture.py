"""A Gaussian mixture over a block of latents, given the blocks before it (model.md, Eqs. 61 to 64).

The trunk is the flow's. In place of noisy latents it is given empty ones, at timestep 1, so that
one pass says all of a block from the clean ones before it.
Shapes: B batch, n latents, d latent width, b blocks, s latents a block, K components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModel

from cola.models.dit import ProjectedDiT
from cola.models.dit_config import DiTConfig
from cola.models.layers import KeysValues

# Of a component's scale in the prior's units, which keeps densities finite. Chosen: a tenth of the
# narrowest latents in use (logSNR 9 at unit scale).
LEAST_SCALE = 1e-3


class MixtureConfig(DiTConfig):
    """Sizes of a `MixtureDiT`; its outputs of a latent are `txt_out_channels`."""

    model_type = "cola_mixture"

    def __init__(self, components: int = 1, **kwargs: Any) -> None:
        self.components = components
        super().__init__(**kwargs)

    @property
    def noise_width(self) -> int:
        """Normal numbers that a latent is made of: its own, and one that chooses the component."""
        return int(self.txt_in_channels) + 1


class MixtureDiT(ProjectedDiT):
    """Weights, means and scales of the mixture, (B, n, K (2 d + 1)), by the block-causal trunk."""

    config_class = MixtureConfig

    def mixture(self, shape_Bnd: torch.Size, history: list[KeysValues]) -> BlockMixture:
        """Of all blocks of latents of this shape, each behind its own `history`, as
        `clean_history` returns it."""
        like = history[0][0]
        empty_Bnd = like.new_zeros(shape_Bnd, dtype=torch.float32)
        one_B1 = empty_Bnd.new_ones(len(empty_Bnd), 1)
        return self.read(self.noisy_pass(empty_Bnd, one_B1, history))

    def read(self, numbers: Tensor) -> BlockMixture:
        """The mixtures that the numbers (B, n, K (2 d + 1)) of whole blocks say, in float32."""
        config = self.config
        numbers_Bbs = numbers.float().unflatten(1, (-1, config.block_size))
        count = config.components
        logits_BbsK, rest = numbers_Bbs.split([count, numbers_Bbs.shape[-1] - count], dim=-1)
        mean, scale = rest.unflatten(-1, (count, 2, -1)).unbind(-2)
        return BlockMixture(
            logits_BbsK.mean(2).log_softmax(-1),
            mean.transpose(2, 3),
            F.softplus(scale.transpose(2, 3)) + LEAST_SCALE,
        )


@dataclass(frozen=True)
class BlockMixture:
    """Mixtures of blocks: log_weight_BbK, and mean and scale (B, b, K, s, d)."""

    log_weight_BbK: Tensor
    mean: Tensor
    scale: Tensor

    def log_density(self, z_Bnd: Tensor) -> Tensor:
        """log p of each block in nats, (B, b) (model.md, Eq. 61)."""
        block = self.mean.shape[3]
        log_p_BbKs = self._log_latents(z_Bnd.unflatten(1, (-1, block)))
        return (self.log_weight_BbK + log_p_BbKs.sum(-1)).logsumexp(-1)

    def _log_latents(self, z_Bbsd: Tensor) -> Tensor:
        """log p of each latent in each component, (B, b, K, s)."""
        off = (z_Bbsd[:, :, None] - self.mean) / self.scale
        return (-0.5 * off.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(
        self, noise: Tensor, known_Bsd: Tensor | None = None, known_Bs: Tensor | None = None
    ) -> Tensor:
        """A draw (B, s, d) of the only block, of normal numbers (B, s, d + 1) (model.md, Eq. 64).

        Where `known_Bs`, latents are those of `known_Bsd`, and what they say of the component
        decides on the others: this is the mixture given the known ones.
        """
        log_weight_BK = self.log_weight_BbK[:, 0]
        if known_Bsd is not None and known_Bs is not None:
            log_p_BKs = self._log_latents(known_Bsd[:, None])[:, 0]
            log_weight_BK = log_weight_BK + (log_p_BKs * known_Bs[:, None]).sum(-1)
        uniform_B1 = torch.special.ndtr(noise[:, 0, -1:])
        below_BK = log_weight_BK.softmax(-1).cumsum(-1) < uniform_B1
        chosen_B = below_BK.sum(-1).clamp_max(below_BK.shape[1] - 1)
        row_B = torch.arange(len(noise), device=noise.device)
        z_Bsd = self.mean[row_B, 0, chosen_B] + self.scale[row_B, 0, chosen_B] * noise[..., :-1]
        if known_Bsd is None or known_Bs is None:
            return z_Bsd
        return torch.where(known_Bs[..., None], known_Bsd, z_Bsd)


AutoConfig.register(MixtureConfig.model_type, MixtureConfig)
AutoModel.register(MixtureConfig, MixtureDiT)
