"""Parts of training objectives that families are made of."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from cola.spec.base import SparseSpec, Spec

Fraction = Annotated[float, Field(ge=0, le=1)]


class MaskRateSpec(SparseSpec):
    """Masking with probability p = (max - min) t + min and weight 1 / p (model.md, Eqs. 30, 31)."""

    sparse_keys: ClassVar[tuple[str, ...]] = ("max_mask_probability",)

    min_mask_probability: float = Field(
        default=1e-3, gt=0, le=1, description="Probability of masking a token at t = 0."
    )
    max_mask_probability: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Probability of masking a token at t = 1. Below 1 the schedule is clipped: "
        "less noise in the gradient, of a loss that is no bound any more.",
    )
    stratified: bool = Field(
        default=True,
        description="Whether the times of a global batch are spread evenly over [0, 1].",
    )

    @model_validator(mode="after")
    def _rates_are_in_order(self) -> Self:
        low, high = self.min_mask_probability, self.max_mask_probability
        if low > high:
            raise ValueError(
                f"min_mask_probability={low:g} is above max_mask_probability={high:g}; give the "
                "smaller one as min_mask_probability"
            )
        return self


class MaskingSpec(MaskRateSpec):
    """`MaskRateSpec` for texts of random lengths."""

    random_length_fraction: Fraction = Field(
        default=0.01, description="Share of the sequences that are cut to a random length."
    )


class LogitNormal(Spec):
    """t = sigmoid(loc + scale n), n ~ N(0, 1)."""

    kind: Literal["logit_normal"] = Field(
        default="logit_normal", description="Normally distributed logit(t)."
    )
    timestep_loc: float = Field(
        default=1.0, description="Centre of logit(t); larger values mean more noise."
    )
    timestep_scale: PositiveFloat = Field(default=1.0, description="Spread of logit(t).")


class UniformTime(Spec):
    """t ~ U(0, 1)."""

    kind: Literal["uniform"] = Field(
        default="uniform", description="Times evenly spread over [0, 1]."
    )


class LikelihoodTime(Spec):
    """Times and weights whose mean loss is the bound by the diffusion (model.md, Eqs. 52 to 54)."""

    kind: Literal["likelihood"] = Field(
        default="likelihood",
        description="The squared error weighted as in the likelihood's bound, in nats a latent "
        "dimension; times are evenly spread over what a noisy latent says of the clean one.",
    )
    learned: bool = Field(
        default=False,
        description="Whether the times are learned with the prior, so that the loss has the least "
        "variance: a monotone noise schedule. Its mean is the same.",
    )


TimestepDistribution = Annotated[
    LogitNormal | UniformTime | LikelihoodTime, Field(discriminator="kind")
]


class VAEObjective(Spec):
    """Stage 1: reconstruction + beta KL + lambda_mask masked-token loss (model.md, Eq. 11).

    The defaults of `beta` and `lambda_mask` are measured on English books: over 99% of tokens come
    back at a logSNR near 4 (`tests/benchmarks/latent_space.py`). A `mask_rate` of 0.3 makes a
    slightly better VAE of as many steps there. On the bound of the demo's Cola DLM at 1e12 FLOPs
    (`tests/benchmarks/objective_defaults.py`, one seed, an error of 0.05 nats a token), `beta` from
    0 to 1e-2 and a `mask_rate` of 0.3 change less than that error; a `lambda_mask` of 0 has 0.13
    less, one of 1 0.19 more.
    """

    beta: NonNegativeFloat = Field(
        default=1e-4, description="Weight of the KL divergence to N(0, I), per nat."
    )
    lambda_mask: NonNegativeFloat = Field(
        default=0.3, description="Weight of the masked-token loss; 0 leaves its pass out."
    )
    mask_rate: float = Field(
        default=0.15, gt=0, lt=1, description="Share of the tokens that the masked pass hides."
    )
    free_bits: NonNegativeFloat = Field(
        default=0.0,
        description="KL in nats a latent dimension below which it is not pushed down further.",
    )
    token_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the encoder's tokens replaced by [mask] where its text is "
        "reconstructed; stage 2 encodes the whole text beside it, for prior, entropy and "
        "reference.",
    )
    latent_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the decoder's latents set to zero."
    )


class FlowSpec(SparseSpec):
    """At which times a flow is trained, and how often behind a prompt that ends in a block."""

    sparse_keys: ClassVar[tuple[str, ...]] = ("stratified",)

    timestep: TimestepDistribution = Field(
        default=LogitNormal(), description="Distribution of the training times t in [0, 1]."
    )
    timestep_per: Literal["block", "sequence"] = Field(
        default="block", description="Whether every block or every sequence draws its own time."
    )
    stratified: bool = Field(
        default=False,
        description="Whether the times of a global batch are evenly spread over their "
        "distribution, and so are those of a sequence's blocks.",
    )
    prompt_block_probability: Fraction = Field(
        default=0.05,
        description=(
            "Probability that a random left part of a block stays clean and without loss, like a "
            "prompt that ends inside it. A block of one latent has no such part."
        ),
    )

    @property
    def learns_times(self) -> bool:
        """Whether times follow a schedule that is learned."""
        return isinstance(self.timestep, LikelihoodTime) and self.timestep.learned

    def has_prompts(self, block_size: int) -> bool:
        """Whether blocks of this many latents may have a known part, the rest being learned."""
        return self.prompt_block_probability > 0 and block_size > 1


DETACHED = ("detach_target", "interval")  # modes whose flow-matching loss stops at the latents


class JointObjective(FlowSpec):
    """Stage 2: lambda_vae L_VAE + lambda_fm L_FM + lambda_ref KL(q || q_ref) (model.md, Eq. 14).

    With lambda_ref = 0 joint training collapses within a hundred steps; 0.1 is measured to hold it.
    """

    sparse_keys: ClassVar[tuple[str, ...]] = (
        *FlowSpec.sparse_keys,
        "self_conditioning",
        "lambda_mask",
        "lambda_fm_per",
        "reference_in",
        "drift_samples",
    )

    gradient_mode: Literal["frozen_vae", "detach_target", "joint", "interval", "scratch"] = Field(
        default="detach_target",
        description=(
            "Which parameters the terms reach: frozen_vae (the DiT only), detach_target (the VAE "
            "by its own loss), joint (the flow-matching target reaches the encoder, held by the "
            "reference KL), interval (detach_target one step in `vae_interval`, frozen_vae on the "
            "others), scratch (joint from a fresh VAE, no stage 1)."
        ),
    )
    vae_interval: PositiveInt = Field(
        default=4,
        description="Steps from one update of the VAE to the next in mode interval; the last of "
        "each such row of steps trains it.",
    )
    vae_lr_ratio: PositiveFloat = Field(
        default=1.0, description="Learning rate of the VAE over that of the DiT."
    )
    lambda_vae: NonNegativeFloat = Field(default=1.0, description="Weight of the VAE's terms.")
    lambda_mask: NonNegativeFloat | None = Field(
        default=None,
        description="Weight of the masked-token loss in this stage; 0 leaves its pass out. Null: "
        "that of stage 1.",
    )
    lambda_fm: PositiveFloat = Field(default=1.0, description="Weight of the flow-matching loss.")
    lambda_fm_per: Literal["dimension", "latent"] = Field(
        default="dimension",
        description="Whether `lambda_fm` weighs the flow-matching loss of a mean dimension or the "
        "sum over a latent's dimensions, as it stands in the likelihood.",
    )
    lambda_ref: NonNegativeFloat = Field(
        default=0.1,
        description="Weight of the KL to a frozen copy of the stage-1 encoder, in the modes of "
        "`reference_in`.",
    )
    reference_in: Literal["joint", "every_mode"] = Field(
        default="joint",
        description="Gradient modes in which that KL holds the latents: joint only, or every mode "
        "that trains a VAE of stage 1 (joint, detach_target, and the steps of interval that do).",
    )

    self_conditioning: Fraction = Field(
        default=0.0,
        description="Share of the steps in which the prior is given its own estimate of the clean "
        "latents, from a first pass without gradient. Above 0, likelihood and generation evaluate "
        "it in two passes.",
    )

    drift_samples: int = Field(
        default=2,
        ge=2,
        description="Samples of a block behind one history that a drifting prior is trained by: "
        "each is drawn to the text's latents and away from the others. Each takes a pass.",
    )

    def estimates(self, step: int) -> bool:
        """Whether the prior is given an estimate in the step, counted as in `trains_vae`: exactly
        the share of the steps, evenly spread."""
        return math.floor((step + 1) * self.self_conditioning) > math.floor(
            step * self.self_conditioning
        )

    def trains_vae(self, step: int) -> bool:
        """Whether the step, counted from the stage's first at 0, trains the VAE."""
        if self.gradient_mode == "interval":
            return (step + 1) % self.vae_interval == 0
        return self.gradient_mode != "frozen_vae"

    @property
    def reaches_latents(self) -> bool:
        """Whether the prior's loss reaches the VAE."""
        return self.gradient_mode in ("joint", "scratch")

    def fm_weight(self, latent_dim: int) -> float:
        """Weight of the flow-matching loss of a mean dimension."""
        return self.lambda_fm * (latent_dim if self.lambda_fm_per == "latent" else 1)

    @property
    def uses_reference(self) -> bool:
        """Whether a frozen copy of the stage-1 encoder takes part."""
        return self._may_use_reference and self.lambda_ref > 0

    @property
    def _may_use_reference(self) -> bool:
        modes = ("joint",) if self.reference_in == "joint" else ("joint", *DETACHED)
        return self.gradient_mode in modes

    @model_validator(mode="after")
    def _reference_has_an_effect(self) -> JointObjective:
        mode = f"gradient_mode={self.gradient_mode!r}"
        if self.gradient_mode not in ("joint", *DETACHED) and self.reference_in != "joint":
            why = "trains no VAE" if self.gradient_mode == "frozen_vae" else "has no stage 1"
            raise ValueError(
                f"reference_in={self.reference_in} has no effect in {mode}, which {why}"
            )
        default = type(self).model_fields["lambda_ref"].default
        if not self._may_use_reference and self.lambda_ref != default:
            remedy = ", or to reference_in=every_mode" if self.gradient_mode in DETACHED else ""
            raise ValueError(
                f"lambda_ref={self.lambda_ref:g} has no effect in {mode}; it belongs to "
                f"gradient_mode='joint'{remedy}"
            )
        return self

    @model_validator(mode="after")
    def _masked_loss_has_an_effect(self) -> JointObjective:
        if self.lambda_mask is not None and self.gradient_mode == "frozen_vae":
            raise ValueError(
                f"lambda_mask={self.lambda_mask:g} has no effect in gradient_mode='frozen_vae', "
                "which trains no VAE; leave it out"
            )
        return self
