"""Private parts of DeepSpeed: where a ZeRO optimiser keeps the state of each parameter.

Checked with CHECKED_VERSION: before another version is allowed in pyproject.toml, the tests of this
module and of checkpoints across ZeRO stages (tests/integration/test_data_parallel.py) must pass.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CHECKED_VERSION = "0.19.8"


@dataclass(frozen=True)
class Partition:
    """This worker's elements [start, start + numel) of a flattened parameter: those of `flat`, the
    float32 tensor that the optimiser steps, from `offset` on."""

    start: int
    numel: int
    flat: Tensor
    offset: int


def partition_of(optimizer: Any, zero_stage: int, parameter: Any, *, rank: int) -> Partition | None:
    """Where the optimiser of a ZeRO stage 1 to 3 keeps this worker's part of a trained parameter;
    None where it has no part of it."""
    if zero_stage == 3:
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start, held = weights_held(parameter, rank)
        return Partition(start, len(held), optimizer.fp32_partitioned_groups_flat[group], offset)
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    low, high = mapping.lp_fragment_address, mapping.hp_fragment_address
    flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    return Partition(low.start, low.numel, flat, high.start)


def weights_held(parameter: Any, rank: int) -> tuple[int, Tensor]:
    """First element and view (n,) of a stage 3 parameter's part on the worker of this rank."""
    part = parameter.partition_numel()
    start = min(rank * part, parameter.ds_numel)
    held: Tensor = parameter.ds_tensor.detach().view(-1)
    return start, held[: min(part, parameter.ds_numel - start)]  # the last part is padded


def wrapped_optimizer(optimizer: Any) -> Any:
    """The torch optimiser that a ZeRO optimiser steps."""
    return optimizer.optimizer


def forget_gradients(optimizer: Any) -> None:
    """Zero stage 3's gradients: it keeps those of a parameter that the next pass does not reach."""
    buffer = optimizer.grad_partitions_flat_buffer
    if buffer is not None:  # before the first pass there is none
        buffer.zero_()


@contextmanager
def loading_weights(optimizer: Any, zero_stage: int) -> Iterator[None]:
    """Within, a stage's weights may be overwritten: stage 3 drops the copies it has gathered."""
    if zero_stage == 3:
        optimizer.checkpoint_event_prologue()
    yield
    if zero_stage == 3:
        optimizer.checkpoint_event_epilogue()


def switch_off_norm_checks(deepspeed: Any) -> None:
    """ZeRO's step does not wait for the device to ask whether the gradient norm is finite.

    The norm that it gives is infinite where a gradient is not, as with the checks, but the weights
    are lost, which the checks leave as they were: a caller must look at the norm, and stop.
    """
    for stage in (deepspeed.runtime.zero.stage_1_and_2, deepspeed.runtime.zero.stage3):
        stage.is_invalid_grad_norm = lambda norm: False


@contextmanager
def without_tracking() -> Iterator[None]:
    """Within, DeepSpeed is imported without MLflow, by which its autotuner alone would log.

    It takes each worker more than a second of its start.
    """
    loaded = "mlflow" in sys.modules
    if not loaded:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # Python's mark of no such module
    try:
        yield
    finally:
        if not loaded:
            del sys.modules["mlflow"]


def import_muon_uncompiled(deepspeed: Any) -> None:
    """Import DeepSpeed's Muon, which nothing here uses, without `torch.compile`.

    A first engine imports it to compare classes, and its decorators would load all of Inductor: a
    second of each worker's start.
    """
    compiler = deepspeed.runtime.compiler
    compiled = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = compiled


def switch_off_shared_memory_collectives(deepspeed: Any) -> None:
    """Collectives on CPUs go through gloo: DeepSpeed's own operator would be compiled with g++ at
    its first use."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
