"""Memory of a worker's device at each ZeRO stage: training states and activations (torch-free).

Weights stay in float32 under autocast, so a parameter takes 4 bytes, its gradient 4 and AdamW's
moments 8. Activations are an estimate from above (see `cola.compute.activations`). Bytes
throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

from cola.compute.head_memory import bytes_saved
from cola.families.registry import definition_of
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec
from orchestration.planning.accelerators import accelerator_of

WEIGHT, GRADIENT, MOMENTS = 4, 4, 8
# DeepSpeed's defaults of reduce_bucket_size and allgather_bucket_size: 5e8 elements of 4 bytes.
BUCKET = 500_000_000 * 4
RESERVED = 2e9  # chosen: room for the CUDA context, NCCL and fragmentation


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of one worker at one ZeRO stage, and the micro-batch that it allows."""

    zero_stage: int
    states: float
    activations: float
    micro_batch_sequences: int
    accumulation: int
    fits: bool
    checkpoints_activations: bool = False

    @property
    def total(self) -> float:
        """States, activations and what is reserved."""
        return self.states + self.activations + RESERVED


def memory_by_stage(spec: RunSpec, resources: ResourcesSpec) -> tuple[MemoryPlan, ...]:
    """The plans of ZeRO stages 0 to 3; none where the device's memory is not known."""
    memory = accelerator_of(resources).memory
    if memory is None:
        return ()
    device_bytes = memory * device_share(resources)
    return tuple(
        memory_plan(spec, resources, stage, device_bytes=device_bytes) for stage in range(4)
    )


def device_share(resources: ResourcesSpec) -> float:
    """The part of its device's memory that a worker may take."""
    return resources.gpus_per_worker or 1.0


def memory_plan(
    spec: RunSpec, resources: ResourcesSpec, zero_stage: int, *, device_bytes: float
) -> MemoryPlan:
    """The largest micro-batch that fits at this ZeRO stage, or the given one where one is given.

    An elastic run is planned with the fewest workers that it may have: each then holds the most.
    Activation checkpointing is planned where it is asked for, or where nothing fits without.
    """
    workers = resources.min_workers or resources.workers
    sequences = -(-spec.training.batch_sequences // workers)
    family = definition_of(spec.model.family)
    parameters = family.parameter_counts(spec.model).total
    frozen = family.frozen_parameters(spec.model, spec.objective)
    states = state_bytes(parameters, workers, zero_stage, frozen=frozen)
    sizes = [n for n in range(1, sequences + 1) if sequences % n == 0]
    if resources.micro_batch_sequences is not None:
        sizes = [resources.micro_batch_sequences]
    length = spec.data.sequence_length
    ways = [
        (checkpoints, {n: n * kept * length - head_bytes_saved(spec, n) for n in sizes})
        for checkpoints, kept in _per_token(spec, resources)
    ]
    fitting = [
        (way, max(fit))
        for way in ways
        if (fit := [n for n in sizes if states + way[1][n] + RESERVED <= device_bytes])
    ]
    (checkpoints, kept), micro = fitting[0] if fitting else (ways[-1], sizes[0])
    return MemoryPlan(
        zero_stage=zero_stage,
        states=states,
        activations=kept[micro],
        micro_batch_sequences=micro,
        accumulation=-(-sequences // micro),
        fits=bool(fitting),
        checkpoints_activations=checkpoints,
    )


def _per_token(spec: RunSpec, resources: ResourcesSpec) -> list[tuple[bool, float]]:
    """Whether activations are checkpointed, and what a token then keeps, in the order of choice."""
    family, precision = definition_of(spec.model.family), spec.training.precision
    plain = (False, family.activation_bytes(spec.model, spec.objective, precision))
    fewer = family.checkpointed_bytes(spec.model, spec.objective, precision)
    if fewer is None or resources.activation_checkpointing == "never":
        return [plain]
    if resources.activation_checkpointing == "always":
        return [(True, fewer)]
    return [plain, (True, fewer)]


def head_bytes_saved(spec: RunSpec, sequences: int) -> float:
    """What a micro-batch keeps less than its whole logits, which activations of a token include."""
    family = definition_of(spec.model.family)
    tokens = sequences * spec.data.sequence_length
    head = family.parameter_counts(spec.model).head
    return sum(
        bytes_saved(
            share * tokens, spec.model.vocab_size, spec.training.precision, head_parameters=head
        )
        for share in family.head_shares(spec.objective)
    )


def state_bytes(parameters: int, workers: int, zero_stage: int, *, frozen: int = 0) -> float:
    """Weights, gradients and AdamW's moments on one worker, with DeepSpeed's buckets.

    `parameters` are trained; `frozen` ones are held whole, as weights alone.
    """
    per_parameter = {
        0: WEIGHT + GRADIENT + MOMENTS,
        1: WEIGHT + GRADIENT + MOMENTS / workers,
        2: WEIGHT + (GRADIENT + MOMENTS) / workers,
        3: (WEIGHT + GRADIENT + MOMENTS) / workers,
    }[zero_stage]
    buckets = 0.0 if zero_stage == 0 else min(2 * BUCKET, 2 * WEIGHT * parameters)
    return per_parameter * parameters + WEIGHT * frozen + buckets
