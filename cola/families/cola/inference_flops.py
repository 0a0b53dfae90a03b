"""FLOPs of Cola DLM's likelihood and generation; executed convention (see `cola.compute.flops`)."""

from __future__ import annotations

from cola.compute.flops import Components, vae_forward
from cola.compute.flow_flops import blocks_of, flow_blocks, flow_density, one_pass
from cola.families.cola.priors import integrated
from cola.families.cola.spec import ColaModelSpec
from cola.spec import GenerationSpec, LikelihoodSpec, TextVAESpec
from cola.spec.networks import DriftingPrior, MixturePrior


def evidence(model: ColaModelSpec, settings: LikelihoodSpec, length: int) -> Components:
    """One sample of the evidence bound, per sequence; of a generator, which has none, what
    validation measures in its place (`cola.objectives.drifting.measured`)."""
    latents = length // model.vae.patch_size
    if isinstance(model.prior, MixturePrior):
        return vae_forward(model.vae, length) | one_pass(model.dit, latents)
    if isinstance(model.prior, DriftingPrior):
        return vae_forward(model.vae, length) | one_pass(model.dit, latents, samples=2)
    return vae_forward(model.vae, length) | flow_density(model.dit, settings, latents)


def block_decoding(
    model: ColaModelSpec, settings: GenerationSpec, prompt: int, *, batch: int
) -> Components:
    """Encode the prompt; then denoise, commit and decode block after block."""
    dit, vae = model.dit, model.vae
    per_block = dit.block_size * vae.patch_size
    before, made = blocks_of(settings, prompt, per_block)
    settings = integrated(model.prior, settings)
    parts = flow_blocks(dit, settings, before, made, batch=batch)
    encoded = max(1, -(-prompt // per_block)) * per_block
    encoder = vae_forward(vae, encoded)
    parts |= {name: value for name, value in encoder.items() if name.startswith("vae_encoder")}
    return parts | _decoding(vae, before * per_block, made * per_block)


def _decoding(vae: TextVAESpec, prefix: int, new: int) -> Components:
    """The decoder over prefix and new tokens; unpatching and head over the new ones."""
    whole = vae_forward(vae, prefix + new)
    unpatching = prefix // vae.patch_size * 2.0 * vae.hidden_size**2 * vae.patch_size
    return {
        "vae_decoder": whole["vae_decoder"] - unpatching,
        "vae_decoder_attention_scores": whole["vae_decoder_attention_scores"],
        "head": whole["head"] * new / (prefix + new),
    }
