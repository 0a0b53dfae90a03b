"""What the training loop asks of an engine, and the plain torch one (one process, no Ray)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from cola.families.interface.family import StageModule
from cola.study import TrainingSpec


@dataclass(frozen=True)
class StepResult:
    """Weighted means over this worker's micro-batches, and the norm before clipping (global).

    The mean of `values` over the workers is the mean over the global batch.
    """

    values: dict[str, float]
    gradient_norm: float


@dataclass(frozen=True)
class MicroBatch:
    """Drawn inputs of one forward pass, and its weight in the mean over all passes of a step.

    The weight is (rows) / (mean rows of a pass): 1 where the global batch is divided evenly, 0
    where a pass is only made because other workers make one.
    """

    inputs: dict[str, Tensor]
    weight: float = 1.0


class Engine(Protocol):
    """Holds one stage's module, optimiser and (sharded) state."""

    module: StageModule
    device: torch.device

    def step(self, batches: Sequence[MicroBatch], factor: float) -> StepResult:
        """One optimiser step over as many micro-batches as any other worker makes.

        The rate is factor x peak, the gradient the mean over workers of the weighted mean.
        """

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision in which forward passes run."""

    def save(self, folder: Path) -> None:
        """Write this worker's part of the training state.

        Raises:
            OSError: where it cannot be written, after every collective call was carried out.
        """

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, with whatever number of workers and sharding."""

    def full_state_dict(self) -> dict[str, Tensor]:
        """The module's whole state on the CPU, on every worker."""

    def close(self) -> None:
        """Release what the engine holds."""


@dataclass(frozen=True)
class EngineSettings:
    """How an engine executes: everything of it but the training settings leaves results alone."""

    training: TrainingSpec
    zero_stage: int
    accumulation: int
    compile: bool = False


Groups = list[dict[str, Any]]


def optimizer_groups(groups: Groups, training: TrainingSpec) -> Groups:
    """AdamW parameter groups; `lr_ratio` and `interval` stay in the group for the step."""
    peak = training.optimizer.learning_rate
    return [{**group, "lr": peak * group.get("lr_ratio", 1.0)} for group in groups]


def adamw(groups: Groups, settings: EngineSettings) -> torch.optim.AdamW:
    """The optimiser of every family and engine."""
    optimizer = settings.training.optimizer
    return torch.optim.AdamW(
        optimizer_groups(groups, settings.training),
        betas=optimizer.betas,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        fused=settings.compile or None,
    )


def set_learning_rates(
    groups: Sequence[dict[str, Any]], training: TrainingSpec, factor: float, step: int
) -> None:
    """Write this step's rate into each group; a group with `interval` k moves every k-th step."""
    for group in groups:
        active = step % group.get("interval", 1) == 0
        peak = training.optimizer.learning_rate * group.get("lr_ratio", 1.0)
        group["lr"] = peak * factor * active


class TorchEngine:
    """One process, no sharding: the reference that DeepSpeed engines are compared with."""

    def __init__(
        self,
        module: StageModule,
        groups: Groups,
        settings: EngineSettings,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.module = module.to(self.device)
        self._settings = settings
        if settings.compile:
            module.compile()
        self._optimizer = adamw(groups, settings)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._steps = 0

    def step(self, batches: Sequence[MicroBatch], factor: float) -> StepResult:
        """See `Engine.step`."""
        training = self._settings.training
        set_learning_rates(self._optimizer.param_groups, training, factor, self._steps)
        self._optimizer.zero_grad(set_to_none=True)
        outputs = []
        for batch in batches:
            with self.autocast():
                output = self.module(**batch.inputs)
            (batch.weight * output["loss"] / len(batches)).backward()
            outputs.append(weighted(output, batch.weight))
        clip = training.optimizer.grad_clip
        norm = nn.utils.clip_grad_norm_(self._parameters, clip if clip else float("inf"))
        self._optimizer.step()
        self._steps += 1
        return StepResult(mean_of(outputs), float(norm))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """See `Engine.autocast`."""
        return autocast(self.device, self._settings.training.precision)

    def save(self, folder: Path) -> None:
        """See `Engine.save`."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self._steps,
        }
        write_state(state, folder / "torch_engine.pt")

    def load(self, folder: Path) -> None:
        """See `Engine.load`."""
        state = torch.load(folder / "torch_engine.pt", map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._steps = state["steps"]

    def full_state_dict(self) -> dict[str, Tensor]:
        """See `Engine.full_state_dict`."""
        return {name: value.detach().cpu() for name, value in self.module.state_dict().items()}

    def close(self) -> None:
        """See `Engine.close`."""
        self._optimizer.zero_grad(set_to_none=True)


def write_state(state: Any, path: Path) -> None:
    """`torch.save`, with an OSError where the file cannot be written.

    Given a path, torch raises a RuntimeError that does not tell a full disk from its own faults.
    """
    with path.open("wb") as file:
        sink = _Sink(file)
        torch.save(state, cast(IO[bytes], sink))
        if sink.error is not None:
            raise sink.error


class _Sink(io.RawIOBase):
    """Writes through until that fails, and from then on only remembers why."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        """It is for writing."""
        return True

    def write(self, data: Any) -> int:
        """Take all of `data`."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def autocast(
    device: torch.device, precision: Literal["float32", "bfloat16"]
) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 matrix products over float32 weights, or plain float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def weighted(output: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """The scalars of a pass, off the graph; reading them is left until all are computed."""
    return {name: weight * value.detach() for name, value in output.items()}


def mean_of(outputs: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of each named scalar over the micro-batches."""
    return {
        name: float(torch.stack([output[name].float() for output in outputs]).mean())
        for name in outputs[0]
    }
