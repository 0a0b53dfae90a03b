"""Kinds of priors of latents: how a block of them is made behind those before it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from cola.spec.base import Spec


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
