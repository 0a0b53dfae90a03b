"""What each family minimises, and the settings of generation and likelihood."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from cola.spec.base import Spec

Fraction = Annotated[float, Field(ge=0, le=1)]


class NextToken(Spec):
    """Cross entropy of every token given those before it."""

    family: Literal["ar"] = "ar"

    def stage_shares(self) -> dict[str, float]:
        """Share of the run's compute by stage, in order."""
        return {"train": 1.0}


class MaskedDiffusion(Spec):
    """LLaDA: mask with probability p = (1 - min) t + min, weight 1 / p (model.md, Eq. 31)."""

    family: Literal["llada"] = "llada"
    min_mask_probability: float = Field(default=1e-3, gt=0, lt=1)
    stratified: bool = True
    random_length_fraction: Fraction = 0.01

    def stage_shares(self) -> dict[str, float]:
        """Share of the run's compute by stage, in order."""
        return {"train": 1.0}


class LogitNormal(Spec):
    """t = sigmoid(loc + scale n), n ~ N(0, 1)."""

    kind: Literal["logit_normal"] = "logit_normal"
    timestep_loc: float = 1.0
    timestep_scale: PositiveFloat = 1.0


class UniformTime(Spec):
    """t ~ U(0, 1)."""

    kind: Literal["uniform"] = "uniform"


TimestepDistribution = Annotated[LogitNormal | UniformTime, Field(discriminator="kind")]


class VAEObjective(Spec):
    """Stage 1: reconstruction + beta KL + lambda_mask masked-token loss (model.md, Eq. 11).

    The defaults of `beta` and `lambda_mask` are measured on English books: over 99% of tokens come
    back at a logSNR near 4 (`tests/benchmarks/latent_space.py`). A `mask_rate` of 0.3 makes a
    slightly better VAE of as many steps there, but a slightly worse bound of as much compute in the
    demo study.
    """

    beta: NonNegativeFloat = 1e-4
    lambda_mask: NonNegativeFloat = 0.3
    mask_rate: float = Field(default=0.15, gt=0, lt=1)
    free_bits: NonNegativeFloat = 0.0
    token_dropout: float = Field(default=0.0, ge=0, lt=1)
    latent_dropout: float = Field(default=0.0, ge=0, lt=1)


class JointObjective(Spec):
    """Stage 2: lambda_vae L_VAE + lambda_fm L_FM + lambda_ref KL(q || q_ref) (model.md, Eq. 14).

    `gradient_mode` says which parameters the terms reach:
    frozen_vae (DiT only), detach_target (VAE by its own loss), joint (the flow-matching target
    reaches the encoder; held by the reference KL, of weight `lambda_ref`), interval (detach_target,
    VAE updated one step in `vae_interval`), scratch (joint from a fresh VAE, no stage 1).
    With lambda_ref = 0 joint training collapses within a hundred steps; 0.1 is measured to hold it.
    """

    gradient_mode: Literal["frozen_vae", "detach_target", "joint", "interval", "scratch"] = (
        "detach_target"
    )
    vae_interval: PositiveInt = 4
    vae_lr_ratio: PositiveFloat = 1.0
    lambda_vae: NonNegativeFloat = 1.0
    lambda_fm: PositiveFloat = 1.0
    lambda_ref: NonNegativeFloat = 0.1
    timestep: TimestepDistribution = LogitNormal()
    timestep_per: Literal["block", "sequence"] = "block"
    prompt_block_probability: Fraction = 0.05

    @property
    def uses_reference(self) -> bool:
        """Whether a frozen copy of the stage-1 encoder takes part."""
        return self.gradient_mode == "joint" and self.lambda_ref > 0

    @model_validator(mode="after")
    def _reference_has_an_effect(self) -> JointObjective:
        default = type(self).model_fields["lambda_ref"].default
        if self.gradient_mode != "joint" and self.lambda_ref != default:
            raise ValueError(
                f"lambda_ref={self.lambda_ref:g} has no effect in gradient_mode="
                f"{self.gradient_mode!r}; it belongs to gradient_mode='joint'"
            )
        return self


class ColaObjective(Spec):
    """Both stages. `stage1_share` of the run's compute pays for the VAE's pretraining."""

    family: Literal["cola"] = "cola"
    stage1: VAEObjective = VAEObjective()
    stage2: JointObjective = JointObjective()
    stage1_share: float = Field(default=0.2, gt=0, lt=1)

    def stage_shares(self) -> dict[str, float]:
        """Share of the run's compute by stage, in order; `scratch` has no stage 1."""
        if self.stage2.gradient_mode == "scratch":
            return {"joint": 1.0}
        return {"vae": self.stage1_share, "joint": 1.0 - self.stage1_share}


Objective = Annotated[NextToken | MaskedDiffusion | ColaObjective, Field(discriminator="family")]


class GenerationSpec(Spec):
    """How text is generated. A family reads the settings that apply to it.

    Cola DLM: `steps` to `first_block` (`guidance_scale` 1 is off). LLaDA: `steps` and those from
    `remasking` on.
    """

    max_new_tokens: PositiveInt = 64
    temperature: NonNegativeFloat = 0.0
    top_k: PositiveInt | None = None
    top_p: float | None = Field(default=None, gt=0, le=1)
    repetition_penalty: PositiveFloat = 1.0
    steps: PositiveInt = 16
    guidance_scale: PositiveFloat = 3.0
    solver: Literal["euler", "heun", "midpoint"] = "euler"
    time_grid: Literal["uniform", "cosine", "quadratic"] = "uniform"
    first_block: Literal["clean_repaint", "partial_repaint", "left_padding", "right_padding"] = (
        "clean_repaint"
    )
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    unmasking_block: PositiveInt | None = None
    unmasking_guidance_scale: PositiveFloat = 1.0


class LikelihoodSpec(Spec):
    """Cost and accuracy of the validation NLL bounds.

    LLaDA: monte_carlo, a bound from `mask_samples` stratified mask counts per sequence, or
    chain_rule, exact for unmasking from left to right (a pass a token). Cola: CNF with `ode_steps`
    steps per block; `divergence` exact (trace) or hutchinson (one fixed `probe` per solve);
    `importance_samples` of z0 a sequence (1: the evidence bound, more: IWAE).
    """

    masked: Literal["monte_carlo", "chain_rule"] = "monte_carlo"
    mask_samples: PositiveInt = 8
    ode_steps: PositiveInt = 8
    divergence: Literal["exact", "hutchinson"] = "hutchinson"
    probe: Literal["rademacher", "gaussian"] = "rademacher"
    importance_samples: PositiveInt = 1

    @model_validator(mode="after")
    def _is_a_bound(self) -> LikelihoodSpec:
        # Hutchinson's noise is unbiased in log w, hence biased upwards in w.
        if self.importance_samples > 1 and self.divergence != "exact":
            raise ValueError(
                f"importance_samples={self.importance_samples} with divergence="
                f"{self.divergence!r} would not be a bound; use divergence='exact'"
            )
        return self
