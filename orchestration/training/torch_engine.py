"""Plain torch in one process, without DeepSpeed: for calibration, benchmarks and tests."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cola.families.interface.family import StageModule
from orchestration.step.draws import MicroBatch
from orchestration.training.distributed import WorkerRank
from orchestration.training.engine import (
    EngineSettings,
    ParameterGroups,
    PassMemoryError,
    StepResult,
    UpdateMemoryError,
    adamw,
    autocast,
    intervals,
    mean_scalars,
    out_of_memory_as,
    own_copy,
    set_learning_rates,
    weighted_scalars,
)
from orchestration.training.zero_state import ZeroState


class TorchEngine:
    """One process, no sharding: the reference for DeepSpeed engines."""

    def __init__(
        self,
        module: StageModule,
        groups: ParameterGroups,
        settings: EngineSettings,
        *,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.module = module.to(self.device)
        self._settings = settings
        if settings.compile:
            module.compile(rows=settings.rows)
        self.optimizer = adamw(groups, settings)
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._state = ZeroState(self, 0, WorkerRank(), intervals=intervals(groups))
        self._steps = 0

    def step(self, batches: Sequence[MicroBatch], factor: float) -> StepResult:
        """See `Engine.step`."""
        training = self._settings.training
        set_learning_rates(self.optimizer.param_groups, training, factor, step=self._steps)
        self.optimizer.zero_grad(set_to_none=True)
        outputs = []
        for batch in batches:
            with out_of_memory_as(PassMemoryError):
                with self.autocast():
                    output = self.module(**batch.inputs)
                (batch.weight * output["loss"] / len(batches)).backward()
            outputs.append(weighted_scalars(output, batch.weight))
        clip = training.optimizer.grad_clip
        with out_of_memory_as(UpdateMemoryError):
            norm = nn.utils.clip_grad_norm_(self._parameters, clip if clip else float("inf"))
            self.optimizer.step()
        self._steps += 1
        return StepResult(mean_scalars(outputs), norm)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """See `Engine.autocast`."""
        return autocast(self.device, self._settings.training.precision)

    def save(self, folder: Path) -> None:
        """See `Engine.save`."""
        self._state.save(folder, self._steps)

    def load(self, folder: Path) -> None:
        """See `Engine.load`."""
        self._steps = self._state.load(folder)

    def full_state_dict(self) -> dict[str, Tensor]:
        """See `Engine.full_state_dict`."""
        return {name: own_copy(value) for name, value in self.module.state_dict().items()}

    def close(self) -> None:
        """See `Engine.close`."""
        self.optimizer.zero_grad(set_to_none=True)
