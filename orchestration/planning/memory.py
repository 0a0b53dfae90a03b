"""Memory of a worker's device: what training states take at each ZeRO stage, and activations.

Weights stay in float32 under autocast, so a parameter takes 4 bytes, its gradient 4 and AdamW's
moments 8. Activations are estimated from above (`cola.compute.activations`). Bytes throughout.
Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass

from cola.compute.activations import Precision
from cola.families.interface.specs import ModelSpec, ObjectiveSpec
from cola.families.registry import definition_of

WEIGHT, GRADIENT, MOMENTS = 4, 4, 8
BUCKET = 500_000_000 * 4  # DeepSpeed's reduce and all-gather buckets, elements of 4 bytes
RESERVED = 2e9  # CUDA context, NCCL, fragmentation


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


def memory_plan(
    model: ModelSpec,
    objective: ObjectiveSpec,
    precision: Precision,
    tokens_per_sequence: int,
    sequences_per_worker: int,
    workers: int,
    zero_stage: int,
    device_bytes: float,
    micro_batch_sequences: int | None = None,
) -> MemoryPlan:
    """The largest micro-batch that fits (the given one, if it is given) at this ZeRO stage."""
    family = definition_of(model.family)
    frozen = family.frozen_parameters(model, objective)
    states = state_bytes(family.parameter_counts(model).total, workers, zero_stage, frozen)
    each = family.activation_bytes(model, objective, precision) * tokens_per_sequence
    divisors = [n for n in range(1, sequences_per_worker + 1) if sequences_per_worker % n == 0]
    if micro_batch_sequences is not None:
        divisors = [micro_batch_sequences]
    fitting = [n for n in divisors if states + n * each + RESERVED <= device_bytes]
    micro = max(fitting, default=divisors[0])
    return MemoryPlan(
        zero_stage, states, micro * each, micro, -(-sequences_per_worker // micro), bool(fitting)
    )
