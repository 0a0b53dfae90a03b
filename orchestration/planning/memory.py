"""Memory of a worker's device: what training states take at each ZeRO stage, and activations.

Weights stay in float32 under autocast, so a parameter takes 4 bytes, its gradient 4 and AdamW's
moments 8. Activations are an estimate from above, by the tensors that each kind of layer keeps for
the backward pass. Bytes throughout. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass

from cola.flops import parameter_counts
from cola.spec import ColaModelSpec, ModelSpec, Objective
from cola.spec.objective import ColaObjective

WEIGHT, GRADIENT, MOMENTS = 4, 4, 8
BUCKET = 500_000_000 * 4  # DeepSpeed's reduce and all-gather buckets, elements of 4 bytes
RESERVED = 2e9  # CUDA context, NCCL, fragmentation
# Bytes a token and layer keeps in float32, per unit of width and per unit of MLP width.
TRUNK, VAE, DIT_WIDTH = (48, 16), (40, 10), 116
HALF = 0.6  # of them under bfloat16 autocast: norms and residuals stay in float32
LOGIT = {"float32": 8, "bfloat16": 10}  # bytes a logit: its own type, float32, its gradient


@dataclass(frozen=True)
class MemoryPlan:
    """One ZeRO stage on one worker: states, activations of one micro-batch, and how it is cut."""

    zero_stage: int
    states: float
    activations: float
    micro_batch_sequences: int
    accumulation: int
    fits: bool

    @property
    def total(self) -> float:
        """All of it, with what the device keeps for itself."""
        return self.states + self.activations + RESERVED


def state_bytes(parameters: int, workers: int, zero_stage: int, extra: int = 0) -> float:
    """Weights, gradients and AdamW's moments of one worker; `extra` parameters are held frozen."""
    shared = {
        0: WEIGHT + GRADIENT + MOMENTS,
        1: WEIGHT + GRADIENT + MOMENTS / workers,
        2: WEIGHT + (GRADIENT + MOMENTS) / workers,
        3: (WEIGHT + GRADIENT + MOMENTS) / workers,
    }[zero_stage]
    buckets = 0.0 if zero_stage == 0 else min(2 * BUCKET, 2 * WEIGHT * parameters)
    return shared * parameters + WEIGHT * extra + buckets


def activation_bytes_per_token(model: ModelSpec, objective: Objective, precision: str) -> float:
    """What one token of a micro-batch keeps for the backward pass, in the largest stage."""
    scale = HALF if precision == "bfloat16" else 1.0
    logits = LOGIT[precision] * model.vocab_size
    if not isinstance(model, ColaModelSpec):
        width, ffn = TRUNK
        layer = width * model.hidden_size + ffn * model.ffn_size
        return scale * model.num_layers * layer + logits
    if not isinstance(objective, ColaObjective):
        raise ValueError(f"objective of family {objective.family} for a cola model")
    vae, dit = model.vae, model.dit
    width, ffn = VAE
    layers = vae.encoder_layers + vae.decoder_layers
    masked = objective.stage1.lambda_mask > 0
    copies = 2 if masked else 1
    frozen = objective.stage2.gradient_mode == "frozen_vae"
    part = scale * copies * layers * (width * vae.hidden_size + ffn * vae.ffn_size) / vae.patch_size
    head = logits * (1 + (objective.stage1.mask_rate if masked else 0.0))
    # Two copies of the latents pass the DiT.
    prior = scale * 2 * dit.num_layers * DIT_WIDTH * dit.hidden_size / vae.patch_size
    return max(part + head, prior if frozen else part + head + prior)


def memory_plan(
    model: ModelSpec,
    objective: Objective,
    precision: str,
    tokens_per_sequence: int,
    sequences_per_worker: int,
    workers: int,
    zero_stage: int,
    device_bytes: float,
    micro_batch_sequences: int | None = None,
) -> MemoryPlan:
    """The largest micro-batch that fits (the given one, if it is given) at this ZeRO stage."""
    reference = isinstance(objective, ColaObjective) and objective.stage2.uses_reference
    counts = parameter_counts(model)
    extra = counts.vae_core // 2 + (counts.embedding - counts.head) if reference else 0
    states = state_bytes(counts.total, workers, zero_stage, extra)
    each = activation_bytes_per_token(model, objective, precision) * tokens_per_sequence
    divisors = [n for n in range(1, sequences_per_worker + 1) if sequences_per_worker % n == 0]
    if micro_batch_sequences is not None:
        divisors = [micro_batch_sequences]
    fitting = [n for n in divisors if states + n * each + RESERVED <= device_bytes]
    micro = max(fitting, default=divisors[0])
    return MemoryPlan(
        zero_stage, states, micro * each, micro, -(-sequences_per_worker // micro), bool(fitting)
    )
