"""FLOPs of training on texts and images; executed convention (see `cola.compute.flops`)."""

from __future__ import annotations

from cola.compute.flops import (
    FIRST,
    FROZEN,
    NO_INPUT_GRADIENT,
    SINUSOID,
    TRAINED,
    Components,
    adaln_projections,
    dit_forward,
    masked_pass_forward,
    time_layers,
    vae_forward,
)
from cola.families.cola.flops import nominal as text_nominal
from cola.families.multimodal.spec import (
    ImageVAESpec,
    MultimodalModelSpec,
    MultimodalObjective,
)


def training(
    model: MultimodalModelSpec, objective: MultimodalObjective, length: int, *, stage: str
) -> Components:
    """Per token of text, with the image that each sequence has."""
    total = _vaes(model, objective, length) if stage == "vaes" else _prior(model, objective, length)
    return {name: value / length for name, value in total.items() if value}


def nominal(model: MultimodalModelSpec, length: int, *, stage: str) -> Components:
    """Per token of text, by 6 N: an image's latents pass their own half of the prior."""
    vae = model.image_vae
    parts = text_nominal(model.text, "vae" if stage == "vaes" else "joint")
    share = vae.latents / length
    images = image_vae_forward(vae)
    parts["6N_image_vae"] = 3.0 * sum(images.values()) / length
    if stage == "prior":
        parts["6N_image_dit"] = parts["6N_dit"] * share
    return parts


def image_vae_forward(vae: ImageVAESpec) -> Components:
    """Forward FLOPs of an image; `inputs` are those of the pixels' projection."""
    width, pixels = vae.hidden_size, vae.channels * vae.patch_size**2
    blocks = vae.num_blocks * (8.0 * width**2 + 2.0 * width * vae.latents)
    parts = {
        "image_vae_inputs": 2.0 * pixels * width,
        "image_vae_encoder": blocks + 4.0 * width * vae.latent_dim,
        "image_vae_decoder": blocks + 2.0 * width * (vae.latent_dim + 2 * pixels),
    }
    return {name: vae.latents * value for name, value in parts.items()}


def _vaes(model: MultimodalModelSpec, objective: MultimodalObjective, length: int) -> Components:
    vae = model.text.vae
    passes = vae_forward(vae, length) | masked_pass_forward(vae, objective.stage1, length)
    total = {name: TRAINED * value for name, value in passes.items()}
    for name, value in image_vae_forward(model.image_vae).items():
        total[name] = (FIRST if name == "image_vae_inputs" else TRAINED) * value
    return total


def _prior(model: MultimodalModelSpec, objective: MultimodalObjective, length: int) -> Components:
    """Encoders at rest, and the pass over both modalities' latents."""
    vae, dit, images = model.text.vae, model.text.dit, image_vae_forward(model.image_vae)
    encoders = {k: v for k, v in vae_forward(vae, length).items() if k.startswith("vae_encoder")}
    encoders |= {k: v for k, v in images.items() if k != "image_vae_decoder"}
    total = {name: FROZEN * value for name, value in encoders.items()}
    parts = dit_forward(dit, length + model.image_vae.latents, False)
    for latents, flow in (
        (length, objective.text_flow),
        (model.image_vae.latents, objective.image_flow),
    ):
        if flow.has_prompts(dit.block_size):  # timestep 0 too, which a product spreads
            distinct = latents // dit.block_size + 1
            vectors = (6 * dit.num_layers + 2) * dit.hidden_size
            parts["adaln"] += adaln_projections(dit) + time_layers(dit)
            parts["adaln_spread"] += 2.0 * distinct * latents * vectors
            parts["inputs"] += 2.0 * SINUSOID * dit.hidden_size
    for name, value in parts.items():
        total[f"dit_{name}"] = (FIRST if name in NO_INPUT_GRADIENT else TRAINED) * value
    return total
