"""What sets the kinds of priors apart: settings that they read, and passes that they take."""

from __future__ import annotations

from cola.spec import GenerationSpec
from cola.spec.objectives import JointObjective
from cola.spec.priors import FlowPrior, PriorSpec

# Keys of stage 2 that only some kinds read.
TIMES = ("timestep", "timestep_per", "stratified", "self_conditioning")
UNREAD = {
    "flow": (),
    "mixture": (*TIMES, "prompt_block_probability"),
}
# Gradient modes in which the prior's loss reaches the latents, which is known of a flow alone.
REACHING = ("joint", "scratch")
# Keys of generation by which a flow is integrated.
INTEGRATION = frozenset({"steps", "guidance_scale", "solver", "time_grid"})
# What makes a block in one pass, in their place.
ONE_PASS = {"steps": 1, "guidance_scale": 1.0, "solver": "euler", "time_grid": "uniform"}
# Keys of likelihood that a density has which is not solved.
EXACT_DENSITY = frozenset({"importance_samples"})


def check_prior(prior: PriorSpec, stage2: JointObjective) -> None:
    """Refuse settings of stage 2 that have no effect on such a prior.

    Raises:
        ValueError: naming the key.
    """
    for key in UNREAD[prior.kind]:
        value, default = getattr(stage2, key), type(stage2).model_fields[key].default
        if value != default:
            shown = value if isinstance(value, str | int | float) else value.kind
            raise ValueError(
                f"objective.stage2.{key}={shown} has no effect with prior.kind={prior.kind}; "
                "leave it out"
            )
    if not isinstance(prior, FlowPrior) and stage2.gradient_mode in REACHING:
        raise ValueError(
            f"objective.stage2.gradient_mode={stage2.gradient_mode} is a flow's: the loss of "
            f"prior.kind={prior.kind} does not reach the latents; use detach_target, interval or "
            "frozen_vae"
        )


def integrated(prior: PriorSpec, settings: GenerationSpec) -> GenerationSpec:
    """The settings by which such a prior makes a block: one pass, where it is no flow."""
    return settings if isinstance(prior, FlowPrior) else settings.model_copy(update=ONE_PASS)
