"""The protocol of an engine, its settings, and what all engines share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from cola.errors import RunError, one_line
from cola.families.interface.family import StageModule
from cola.study import TrainingSpec
from orchestration.step.draws import MicroBatch


class PassMemoryError(RunError):
    """The device's memory is too small for the passes of a step; the training state is that before
    the step."""


class UpdateMemoryError(RunError):
    """The device's memory is too small for the optimiser; some weights may have its step."""


@dataclass(frozen=True)
class StepResult:
    """Weighted means over this worker's micro-batches, and the global gradient norm.

    `means` and `norm` are scalars on the device. `values` and `gradient_norm` read them, for which
    the host waits until the step is done. The mean of `values` over the workers is the mean over
    the global batch. The norm is that before clipping.
    """

    means: Mapping[str, Tensor]
    norm: Tensor

    @cached_property
    def values(self) -> dict[str, float]:
        """The means on the host."""
        if not self.means:
            return {}
        return dict(zip(self.means, torch.stack([*self.means.values()]).tolist(), strict=True))

    @cached_property
    def gradient_norm(self) -> float:
        """The norm on the host."""
        return float(self.norm)


class Engine(Protocol):
    """One stage's module, optimiser and (sharded) training state."""

    module: StageModule
    device: torch.device

    def step(self, batches: Sequence[MicroBatch], factor: float) -> StepResult:
        """One optimiser step; every worker gives equally many micro-batches.

        The rate is `factor` x the peak rate, the gradient the mean over workers of the weighted
        mean over micro-batches. The host waits for no number of the step.

        Raises:
            PassMemoryError: a forward or backward pass does not fit the device's memory.
            UpdateMemoryError: the optimiser does not.
        """

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which forward passes run at the training precision."""

    def save(self, folder: Path) -> None:
        """Write this worker's part of the training state.

        Raises:
            OSError: the folder cannot be written; every collective call has been made by then.
        """

    def load(self, folder: Path) -> None:
        """Read what `save` wrote with any number of workers and any sharding."""

    def full_state_dict(self) -> dict[str, Tensor]:
        """Copies of the module's whole state on the CPU, on every worker (collective).

        They do not change with the module: see `own_copy`.
        """

    def close(self) -> None:
        """Release memory and hooks; the engine cannot be used afterwards."""


def own_copy(value: Tensor) -> Tensor:
    """A copy on the CPU. (`.cpu()` returns the same memory where the tensor is there already.)"""
    return value.detach().to("cpu", copy=True)


@dataclass(frozen=True)
class EngineSettings:
    """How an engine executes; all but `training` leaves results alone beyond rounding.

    `rows`: sequences that compiled blocks have in every pass (None: those of the micro-batch).
    """

    training: TrainingSpec
    zero_stage: int
    accumulation: int
    compile: bool = False
    rows: int | None = None


ParameterGroups = list[dict[str, Any]]


def optimizer_groups(groups: ParameterGroups, training: TrainingSpec) -> ParameterGroups:
    """AdamW's parameter groups at the peak rate; each keeps its `lr_ratio` and `interval`."""
    peak = training.optimizer.learning_rate
    return [{**group, "lr": peak * group.get("lr_ratio", 1.0)} for group in groups]


class RestingAdamW(torch.optim.AdamW):
    """AdamW that passes over groups marked `rests`: weights, moments and step count stay."""

    def step(self, closure: Any = None) -> Any:
        """One step of the other groups."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("rests", False)]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups


def intervals(groups: ParameterGroups) -> dict[torch.nn.Parameter, int]:
    """How many steps lie between two updates of the parameters that are not updated by each."""
    return {
        p: group["interval"] for group in groups if "interval" in group for p in group["params"]
    }


def adamw(groups: ParameterGroups, settings: EngineSettings) -> torch.optim.AdamW:
    """The optimiser that every family and engine uses."""
    optimizer = settings.training.optimizer
    kind = RestingAdamW if intervals(groups) else torch.optim.AdamW
    return kind(
        optimizer_groups(groups, settings.training),
        betas=optimizer.betas,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        fused=settings.compile or None,
    )


def set_learning_rates(
    groups: Sequence[dict[str, Any]], training: TrainingSpec, factor: float, *, step: int
) -> None:
    """Write this step's rate into each group; one with `interval` k rests in all but the
    last of every k steps."""
    for group in groups:
        active = (step + 1) % group.get("interval", 1) == 0
        if "interval" in group:
            group["rests"] = not active
        peak = training.optimizer.learning_rate * group.get("lr_ratio", 1.0)
        group["lr"] = peak * factor * active


def autocast(
    device: torch.device, precision: Literal["float32", "bfloat16"]
) -> contextlib.AbstractContextManager[Any]:
    """A context of bfloat16 matrix products over float32 weights, or of plain float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def weighted_scalars(output: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """The scalars of a pass times its weight; still on the device, as reading them would wait."""
    return {name: weight * value.detach() for name, value in output.items()}


def mean_scalars(outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each named scalar over the micro-batches, in float32 on the device."""
    return {
        name: torch.stack([output[name].float() for output in outputs]).mean()
        for name in outputs[0]
    }


@contextlib.contextmanager
def out_of_memory_as(kind: type[RunError]) -> Iterator[None]:
    """Raise an error of this kind in place of torch's where the device is out of memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise kind(one_line(error)) from None
