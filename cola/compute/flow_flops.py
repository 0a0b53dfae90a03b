"""FLOPs of a flow over blocks of latents: densities and generation; executed convention (see
`cola.compute.flops`).

Forward passes that train nothing count once. Rows of a batch are counted alone: what a batch shares
(AdaLN of a solver's times) is divided by `batch`. `output` is what a family makes of a latent's
features to have its velocity, in FLOPs; None: a linear map.
"""

from __future__ import annotations

from cola.compute.flops import Components, dit_commit, dit_pass, timestep_forward
from cola.spec import GenerationSpec, LikelihoodSpec
from cola.spec.networks import DiTSpec

EVALUATIONS = {"euler": 1, "heun": 2, "midpoint": 2}  # of the velocity, in a step of the solver
TAIL_STRATEGIES = ("clean_repaint", "partial_repaint")  # generate the prompt's last block again


def density_evaluations(steps: int) -> tuple[int, int]:
    """Evaluations of the velocity for a density of the flow, and those with a backward pass.

    It is solved with `steps` and with twice as many steps; the divergence is taken at each
    solution's nodes, and one more evaluation looks ahead in each step.
    """
    backward = sum(count + 1 for count in (steps, 2 * steps))
    return backward + 3 * steps, backward


def bound_evaluations(settings: LikelihoodSpec) -> int:
    """Evaluations of the velocity for the diffusion's bound, which one sample of z0 has beside the
    flow's: at its times, and where its decoding begins."""
    measured = settings.importance_samples == 1 and settings.diffusion_times > 0
    return settings.diffusion_times + 1 if measured else 0


def flow_density(
    dit: DiTSpec, settings: LikelihoodSpec, latents: int, *, output: float | None = None
) -> Components:
    """The density of one sample of a sequence's latents, behind the clean ones."""
    block = dit.block_size
    blocks = latents // block
    parts = _clean_copy(dit, latents)
    passed = velocity_pass(dit, latents, block * block * blocks * (blocks + 1) / 2, output=output)
    backward = 1 if settings.divergence == "hutchinson" else block * dit.latent_dim
    evaluations, with_backward = density_evaluations(settings.ode_steps)
    # One sample has the diffusion's bound beside it, at times of its own for every block.
    times = bound_evaluations(settings)
    for name, value in passed.items():
        parts[name] = (evaluations + times) * value
        # Towards the latents alone; a product of two activations has two gradients.
        each = 2.0 if name.endswith("attention_scores") else 1.0
        suffix = "_attention_scores" if name.endswith("attention_scores") else ""
        key = f"divergence{suffix}"
        parts[key] = parts.get(key, 0.0) + with_backward * backward * each * value
    passes = (1 + dit.self_conditioning) * (evaluations + times * blocks)
    return parts | {"dit_adaln": passes * timestep_forward(dit)}


def one_pass(dit: DiTSpec, latents: int, *, samples: int = 1) -> Components:
    """One pass over a sequence's latents, so many times, behind the clean ones."""
    blocks = latents // dit.block_size
    pairs = samples * dit.block_size**2 * blocks * (blocks + 1) / 2
    parts = _clean_copy(dit, latents) | dit_pass(dit, samples * latents, pairs)
    return parts | {"dit_adaln": samples * timestep_forward(dit)}


def _clean_copy(dit: DiTSpec, latents: int) -> Components:
    """The clean latents of a sequence, without the last block, which no other sees."""
    blocks = latents // dit.block_size
    pairs = dit.block_size**2 * blocks * (blocks - 1) / 2
    return dit_commit(dit, latents - dit.block_size, pairs)


def flow_blocks(
    dit: DiTSpec,
    settings: GenerationSpec,
    before: int,
    made: int,
    *,
    batch: int,
    output: float | None = None,
) -> Components:
    """Denoise `made` blocks behind the `before` clean ones, each of which then joins them."""
    block = dit.block_size
    evaluations = settings.steps * EVALUATIONS[settings.solver]
    pairs = block * block * sum(before + number + 1 for number in range(made))
    parts = _scaled(velocity_pass(dit, made * block, pairs, output=output), evaluations)
    if settings.guidance_scale != 1.0:
        latents = made * block
        alone = velocity_pass(dit, latents, latents * block, output=output)
        parts |= _with_unconditional(parts, alone, dit, latents, evaluations=evaluations)
    committed = before + made - 1
    clean_pairs = block * block * committed * (committed + 1) / 2
    parts |= dit_commit(dit, committed * block, clean_pairs)
    # Heun's steps meet; what is clean is at timestep 0, once for the prompt and once a block.
    times = settings.steps + 1 if settings.solver == "heun" else evaluations
    adaln = (times + made - 1 + bool(before)) * timestep_forward(dit) / batch
    return parts | {"dit_adaln": adaln}


def blocks_of(settings: GenerationSpec, prompt: int, per_block: int) -> tuple[int, int]:
    """Whole blocks in front of the first that is made behind a prompt, and those that are made."""
    tail = prompt % per_block if settings.first_block in TAIL_STRATEGIES else 0
    return -(-(prompt - tail) // per_block), -(-(tail + settings.max_new_tokens) // per_block)


def velocity_pass(
    dit: DiTSpec, latents: float, pairs: float, *, output: float | None
) -> Components:
    """Forward FLOPs of the velocities of `latents`, AdaLN left out; see `dit_pass`."""
    parts = dit_pass(dit, latents, pairs)
    return parts if output is None else parts | {"dit_output": latents * output}


def _with_unconditional(
    conditional: Components, alone: Components, dit: DiTSpec, latents: int, *, evaluations: int
) -> Components:
    """Both passes of guidance: the second sees its own block only, and begins behind the first
    layer's queries, keys and values, which both have in common. A pass with an estimate has none in
    common but the embedded latents."""
    alone = _scaled(alone, evaluations)
    first = 6.0 * dit.hidden_size * dit.num_heads * dit.head_dim * latents * evaluations
    alone["dit_attention_projections"] -= first
    estimates = alone["dit_inputs"] / 3 if dit.self_conditioning else 0.0
    alone["dit_inputs"] = estimates
    return {name: conditional[name] + value for name, value in alone.items()}


def _scaled(parts: Components, factor: float) -> Components:
    return {name: factor * value for name, value in parts.items()}
