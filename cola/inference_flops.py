"""FLOPs of validation and generation, by component; executed convention (see `cola.flops`).

Forward passes that train nothing count once. Rows of a batch are counted alone: what a batch shares
(AdaLN of a solver's times) is divided by `batch`. Torch-free.
"""

from __future__ import annotations

from cola.flops import SINUSOID, Components, FlopsBreakdown, trunk_forward, vae_forward
from cola.spec.model import ColaModelSpec, DiTSpec, ModelSpec, TextVAESpec, TransformerSpec
from cola.spec.objective import GenerationSpec, LikelihoodSpec

EVALUATIONS = {"euler": 1, "heun": 2, "midpoint": 2}  # of the velocity, in a step of the solver
TAIL_STRATEGIES = ("clean_repaint", "partial_repaint")  # generate the prompt's last block again


def likelihood_flops_per_token(
    model: ModelSpec, settings: LikelihoodSpec, length: int
) -> FlopsBreakdown:
    """FLOPs of a validation NLL per token of a sequence of `length` tokens."""
    if isinstance(model, ColaModelSpec):
        parts = _evidence(model, settings, length)
        samples = settings.importance_samples
        return FlopsBreakdown({name: samples * v / length for name, v in parts.items()})
    passes = 1
    if model.family == "llada":
        passes = settings.mask_samples if settings.masked == "monte_carlo" else length
    forward = trunk_forward(model, length)
    return FlopsBreakdown({name: passes * value for name, value in forward.items()})


def generation_flops_per_token(
    model: ModelSpec, settings: GenerationSpec, prompt: int, batch: int = 1
) -> FlopsBreakdown:
    """FLOPs of a continuation of `max_new_tokens` tokens, per new token, the prompt's part too.

    Stops at EOS, patches that a prompt splits, and the repainting of a first block (AdaLN for two
    times instead of one) are left out.
    """
    if isinstance(model, ColaModelSpec):
        parts = _block_decoding(model, settings, prompt, batch)
    elif model.family == "llada":
        parts = _unmasking(model, settings, prompt)
    else:
        parts = _autoregression(model, settings, prompt)
    return FlopsBreakdown({name: v / settings.max_new_tokens for name, v in parts.items() if v})


def dit_pass(dit: DiTSpec, latents: float, pairs: float) -> Components:
    """Forward FLOPs of `latents` through the DiT, each layer attending to `pairs` of keys in all;
    AdaLN left out."""
    width, inner = dit.hidden_size, dit.num_heads * dit.head_dim
    return {
        "dit_attention_projections": dit.num_layers * latents * 8.0 * width * inner,
        "dit_attention_scores": dit.num_layers * 4.0 * inner * pairs,
        "dit_mlp": dit.num_layers * latents * 4.0 * dit.mlp_ratio * width * width,
        "dit_inputs": latents * 2.0 * dit.latent_dim * width,
        "dit_output": latents * 2.0 * dit.latent_dim * width,
    }


def dit_commit(dit: DiTSpec, latents: float, pairs: float) -> Components:
    """Forward FLOPs of clean latents: of the last layer only keys, values and their queries."""
    width, inner, upper = dit.hidden_size, dit.num_heads * dit.head_dim, dit.num_layers - 1
    qkv, rest = 6.0 * width * inner, 2.0 * width * inner + 4.0 * dit.mlp_ratio * width * width
    return {
        "clean_latents": latents * (dit.num_layers * qkv + upper * rest)
        + latents * 2.0 * dit.latent_dim * width,
        "clean_latents_attention_scores": upper * 4.0 * inner * pairs,
    }


def adaln_row(dit: DiTSpec) -> float:
    """Forward FLOPs of one timestep: its embedding, and every AdaLN's projection of it."""
    width = dit.hidden_size
    embedding = 2.0 * SINUSOID * width + 4.0 * width * width
    return embedding + dit.num_layers * 12.0 * width * width + 4.0 * width * width


def _evidence(model: ColaModelSpec, settings: LikelihoodSpec, length: int) -> Components:
    """One sample of the evidence bound, per sequence."""
    dit, parts = model.dit, dict(vae_forward(model.vae, length))
    latents, block = length // model.vae.patch_size, model.dit.block_size
    blocks = latents // block
    clean_pairs = block * block * blocks * (blocks - 1) / 2
    parts |= dit_commit(dit, latents - block, clean_pairs)
    passed = dit_pass(dit, latents, block * block * blocks * (blocks + 1) / 2)
    backward = 1 if settings.divergence == "hutchinson" else block * dit.latent_dim
    evaluations = 2 * settings.ode_steps  # Heun
    for name, value in passed.items():
        parts[name] = evaluations * value
        # Towards the latents alone; a product of two activations has two gradients.
        each = 2.0 if name.endswith("attention_scores") else 1.0
        suffix = "_attention_scores" if name.endswith("attention_scores") else ""
        key = f"divergence{suffix}"
        parts[key] = parts.get(key, 0.0) + evaluations * backward * each * value
    return parts | {"dit_adaln": evaluations * adaln_row(dit)}


def _autoregression(model: TransformerSpec, settings: GenerationSpec, prompt: int) -> Components:
    """Every token but the last is read once, behind a cache; the start token too."""
    read, new = prompt + settings.max_new_tokens, settings.max_new_tokens
    parts = {name: read * value for name, value in trunk_forward(model, read).items()}
    return parts | {"head": parts["head"] * new / read}


def _unmasking(model: TransformerSpec, settings: GenerationSpec, prompt: int) -> Components:
    """The whole sequence once a step, twice with guidance."""
    new = settings.max_new_tokens
    starts = -(-new // (settings.unmasking_block or new))
    passes = starts * max(1, settings.steps // starts)
    if settings.unmasking_guidance_scale != 1.0:
        passes *= 2
    total = prompt + new
    forward = trunk_forward(model, total)
    return {name: passes * total * value for name, value in forward.items()}


def _block_decoding(
    model: ColaModelSpec, settings: GenerationSpec, prompt: int, batch: int
) -> Components:
    """Encode the prompt; then denoise, commit and decode block after block."""
    dit, vae = model.dit, model.vae
    block, per_block = dit.block_size, dit.block_size * vae.patch_size
    tail = prompt % per_block if settings.first_block in TAIL_STRATEGIES else 0
    before = -(-(prompt - tail) // per_block)  # whole blocks in front of the first that is made
    made = -(-(tail + settings.max_new_tokens) // per_block)
    evaluations = settings.steps * EVALUATIONS[settings.solver]
    pairs = block * block * sum(before + number + 1 for number in range(made))
    parts = _scaled(dit_pass(dit, made * block, pairs), evaluations)
    if settings.guidance_scale != 1.0:
        parts |= _with_unconditional(parts, dit, made * block, evaluations)
    committed = before + made - 1
    clean_pairs = block * block * committed * (committed + 1) / 2
    parts |= dit_commit(dit, committed * block, clean_pairs)
    # Heun's steps meet; what is clean is at timestep 0, once for the prompt and once a block.
    times = settings.steps + 1 if settings.solver == "heun" else evaluations
    parts["dit_adaln"] = (times + made - 1 + bool(before)) * adaln_row(dit) / batch
    encoded = max(1, -(-prompt // per_block)) * per_block
    encoder = vae_forward(vae, encoded)
    parts |= {name: value for name, value in encoder.items() if name.startswith("vae_encoder")}
    return parts | _decoding(vae, before * per_block, made * per_block)


def _with_unconditional(
    conditional: Components, dit: DiTSpec, latents: int, evaluations: int
) -> Components:
    """Both passes of guidance: the second sees its own block only, and begins behind the first
    layer's queries, keys and values, which both have in common."""
    alone = _scaled(dit_pass(dit, latents, latents * dit.block_size), evaluations)
    first = 6.0 * dit.hidden_size * dit.num_heads * dit.head_dim * latents * evaluations
    alone["dit_attention_projections"] -= first
    alone["dit_inputs"] = 0.0
    return {name: conditional[name] + value for name, value in alone.items()}


def _decoding(vae: TextVAESpec, prefix: int, new: int) -> Components:
    """The decoder over prefix and new tokens; unpatching and head over the new ones."""
    whole = vae_forward(vae, prefix + new)
    unpatching = prefix // vae.patch_size * 2.0 * vae.hidden_size**2 * vae.patch_size
    return {
        "vae_decoder": whole["vae_decoder"] - unpatching,
        "vae_decoder_attention_scores": whole["vae_decoder_attention_scores"],
        "head": whole["head"] * new / (prefix + new),
    }


def _scaled(parts: Components, factor: float) -> Components:
    return {name: factor * value for name, value in parts.items()}
