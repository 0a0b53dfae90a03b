"""What sets the kinds of priors apart: settings that they read, and passes that they take."""

from __future__ import annotations

from cola.compute.activations import Precision, dit_bytes
from cola.spec import GenerationSpec
from cola.spec.inference import ONE_PASS
from cola.spec.networks import DiTSpec, DriftingPrior, FlowPrior, MixturePrior, PriorSpec
from cola.spec.objectives import JointObjective

# Keys of stage 2 that only some kinds read.
TIMES = ("timestep", "timestep_per", "stratified", "self_conditioning")
UNREAD = {
    "flow": ("drift_samples",),
    "mixture": (*TIMES, "prompt_block_probability", "drift_samples"),
    "drifting": TIMES,
}
# Keys of generation by which a flow is integrated.
INTEGRATION = frozenset(ONE_PASS)
# Keys of likelihood that kinds read which solve nothing.
DENSITIES = {"mixture": frozenset({"importance_samples"}), "drifting": frozenset()}
# That a number of a mixture keeps, in float32: itself, and what densities are made of. Measured.
MIXTURE_BYTES = 16
# How latents are drawn, in words.
DRAWN = {
    "mixture": "from a mixture of Gaussians a block",
    "drifting": "by one pass a block",
}


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
    if not isinstance(prior, FlowPrior) and stage2.reaches_latents:
        raise ValueError(
            f"objective.stage2.gradient_mode={stage2.gradient_mode} is a flow's: the loss of "
            f"prior.kind={prior.kind} does not reach the latents; use detach_target, interval or "
            "frozen_vae"
        )


def prior_bytes(
    prior: PriorSpec,
    dit: DiTSpec,
    stage2: JointObjective,
    *,
    precision: Precision,
    patch_size: int,
    checkpoints: bool,
) -> float:
    """Bytes that a token of text keeps of the prior's training pass for the backward pass."""
    samples = stage2.drift_samples if isinstance(prior, DriftingPrior) else 1
    found = dit_bytes(dit, precision, patch_size, copies=1 + samples, checkpoints=checkpoints)
    if isinstance(prior, MixturePrior):
        found += MIXTURE_BYTES * dit.outputs / patch_size
    return found


def integrated(prior: PriorSpec, settings: GenerationSpec) -> GenerationSpec:
    """The settings by which such a prior makes a block: one pass, where it is no flow."""
    return settings if isinstance(prior, FlowPrior) else settings.in_one_pass()
