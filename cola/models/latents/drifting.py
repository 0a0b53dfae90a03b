"""A generator of blocks of latents in one pass (model.md, Eq. 65): the flow's network, whose
velocity at timestep 1 is the whole way from noise to latents.

Shapes: B batch, n latents, d latent width.
"""

from __future__ import annotations

from torch import Tensor
from transformers import AutoConfig, AutoModel

from cola.models.dit import ColaDiT
from cola.models.dit_config import DiTConfig
from cola.models.layers import KeysValues


class DriftingConfig(DiTConfig):
    """Sizes of a `DriftingDiT`."""

    model_type = "cola_drifting"


class DriftingDiT(ColaDiT):
    """z0 of z1 by one pass; what makes it other than a flow is how it is trained."""

    config_class = DriftingConfig

    def generated(
        self, z1_Bnd: Tensor, history: list[KeysValues], *, clean_Bn: Tensor | None = None
    ) -> Tensor:
        """Latents (B, n, d) of noise, every block behind its own `history` (see `clean_history`).

        Where `clean_Bn`, z1 are known latents, which stand as they are.
        """
        one_B1 = z1_Bnd.new_ones(len(z1_Bnd), 1)
        way_Bnd = self.noisy_pass(z1_Bnd, one_B1, history, clean_Bn=clean_Bn).float()
        if clean_Bn is not None:
            way_Bnd = way_Bnd.masked_fill(clean_Bn[..., None], 0.0)
        return z1_Bnd - way_Bnd


AutoConfig.register(DriftingConfig.model_type, DriftingConfig)
AutoModel.register(DriftingConfig, DriftingDiT)
