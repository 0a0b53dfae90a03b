"""Training FLOPs of Cola DLM's two stages."""

from __future__ import annotations

from cola.compute.flops import (
    FIRST,
    FROZEN,
    NO_INPUT_GRADIENT,
    TRAINED,
    Components,
    dit_forward,
    masked_pass_forward,
    noisy_forward,
    vae_forward,
    vae_parameters,
)
from cola.families.cola.spec import ColaModelSpec, ColaObjective
from cola.spec.networks import FlowPrior, MixturePrior
from cola.spec.objectives import JointObjective


def executed(
    model: ColaModelSpec, objective: ColaObjective, length: int, *, stage: str
) -> Components:
    """Per token of text."""
    vae = vae_forward(model.vae, length)
    encoder = {name: value for name, value in vae.items() if name.startswith("vae_encoder")}
    terms = objective.stage1 if stage == "vae" else objective.vae_in_stage2
    masked = masked_pass_forward(model.vae, terms, length)
    trained_vae = {name: TRAINED * value for name, value in {**vae, **masked}.items()}
    if stage == "vae":
        return _per_token(trained_vae, length)
    stage2 = objective.stage2
    resting = {name: FROZEN * value for name, value in encoder.items()}
    if objective.stage1.token_dropout > 0:  # the whole text is encoded beside it
        trained_vae |= {f"whole_text_{name}": TRAINED * v for name, v in encoder.items()}
    if stage2.gradient_mode == "frozen_vae":
        total = resting
    elif stage2.gradient_mode == "interval":
        total = _mean_of_interval(trained_vae, resting, stage2.vae_interval)
    else:
        total = trained_vae
    if stage2.uses_reference:
        interval = stage2.vae_interval if stage2.gradient_mode == "interval" else 1
        for name, value in encoder.items():
            total[name.replace("vae", "reference")] = FROZEN * value / interval
    latents = length // model.vae.patch_size
    for name, value in _prior_forward(model, stage2, latents).items():
        total[f"dit_{name}"] = (FIRST if name in NO_INPUT_GRADIENT else TRAINED) * value
    if stage2.self_conditioning:
        _add_estimates(total, model, stage2, latents=latents)
    return _per_token(total, length)


def _prior_forward(model: ColaModelSpec, stage2: JointObjective, latents: int) -> Components:
    """Forward FLOPs per sequence of the prior's training pass.

    Kinds of one pass have one timestep for all that is to be said. A mixture has no known parts of
    blocks; of drifting every sample is a noisy copy, beside one clean copy.
    """
    dit, prompts = model.dit, stage2.has_prompts(model.dit.block_size)
    if isinstance(model.prior, FlowPrior):
        return dit_forward(dit, latents, prompts)
    if isinstance(model.prior, MixturePrior):
        return dit_forward(dit, latents, False, timesteps=1)
    found = dit_forward(dit, latents, prompts, timesteps=1)
    for name, value in noisy_forward(dit, latents, prompts, timesteps=1).items():
        found[name] += (stage2.drift_samples - 1) * value
    return found


def _add_estimates(
    total: Components, model: ColaModelSpec, stage2: JointObjective, *, latents: int
) -> None:
    """A step's mean of the passes that estimate clean latents, and of the estimates' embedding."""
    share, dit = stage2.self_conditioning, model.dit
    prompt_blocks = stage2.has_prompts(dit.block_size)
    for name, value in noisy_forward(dit, latents, prompt_blocks).items():
        if name == "adaln_spread":
            total["dit_adaln_spread"] += share * FROZEN * value
        elif value:
            total[f"estimate_{name}"] = share * FROZEN * value
    embedding = latents * 2.0 * dit.latent_dim * dit.hidden_size
    total["estimate_inputs"] += FIRST * embedding  # of zeros in the other steps


def _mean_of_interval(trained: Components, resting: Components, interval: int) -> Components:
    """A step's mean where one in `interval` trains the VAE, and the others only encode with it."""
    steps = {name: value / interval for name, value in trained.items()}
    for name, value in resting.items():
        steps[name] += value * (interval - 1) / interval
    return steps


def nominal(model: ColaModelSpec, stage: str) -> Components:
    """Per token of text, by 6 N."""
    vae, dit = model.vae, model.dit
    width, inner = dit.hidden_size, dit.num_heads * dit.head_dim
    vae_layer = 4.0 * vae.hidden_size**2 + 1.5 * vae.hidden_size * vae.ffn_size
    vae_blocks = (vae.encoder_layers + vae.decoder_layers) * vae_layer
    found = {"6N_vae": 6.0 * (vae_blocks + vae_parameters(vae).head)}
    if stage == "joint":
        dit_layer = 4.0 * width * inner + 2.0 * dit.mlp_ratio * width * width
        found["6N_dit"] = 6.0 * dit.num_layers * dit_layer
    return found


def _per_token(components: Components, length: int) -> Components:
    return {name: value / length for name, value in components.items() if value}
