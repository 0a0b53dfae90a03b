"""DeepSpeed ZeRO 0-3 behind the `Engine` protocol (the only module that imports deepspeed)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cola import process_environment
from cola.families.interface.family import StageModule
from orchestration.compat.deepspeed import (
    forget_gradients,
    import_muon_uncompiled,
    switch_off_norm_checks,
    switch_off_shared_memory_collectives,
    without_tracking,
)
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

log = logging.getLogger(__name__)


def import_deepspeed() -> Any:
    """DeepSpeed, set up for this machine's accelerator."""
    gpu = torch.cuda.is_available()
    process_environment.training_worker(gpu=gpu)
    with without_tracking():
        import deepspeed

    import_muon_uncompiled(deepspeed)
    switch_off_norm_checks(deepspeed)
    if not gpu:
        switch_off_shared_memory_collectives(deepspeed)
    return deepspeed


def close_process_group() -> None:
    """Destroy torch's and DeepSpeed's process groups, so that this process can make new ones."""
    deepspeed = import_deepspeed()
    if deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()
    if dist.is_initialized():
        dist.destroy_process_group()


class DeepSpeedEngine:
    """A stage under DeepSpeed ZeRO; needs an initialised process group."""

    def __init__(
        self, module: StageModule, groups: ParameterGroups, settings: EngineSettings
    ) -> None:
        deepspeed = import_deepspeed()
        self._settings = settings
        log.debug("DeepSpeed engine at ZeRO stage %d", settings.zero_stage)
        if settings.compile:
            module.compile(rows=settings.rows)
        engine, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=adamw(groups, settings),
            config=deepspeed_config(settings, dist.get_world_size()),
            dist_init_required=False,
        )
        self._engine = engine
        self.module: StageModule = engine.module
        self.device: torch.device = torch.device(engine.device)
        self._state = ZeroState(
            engine,
            settings.zero_stage,
            WorkerRank(dist.get_rank(), dist.get_world_size()),
            intervals=intervals(groups),
        )
        self._has_resting = bool(intervals(groups))
        self._steps = 0

    def step(self, batches: Sequence[MicroBatch], factor: float) -> StepResult:
        """See `Engine.step`."""
        groups = self._engine.optimizer.param_groups
        set_learning_rates(groups, self._settings.training, factor, step=self._steps)
        outputs, unsharded_norm = [], None
        if self._has_resting and self._settings.zero_stage == 3:
            forget_gradients(self._engine.optimizer)
        for batch in batches:
            with out_of_memory_as(PassMemoryError):
                output = self._engine(**batch.inputs)
                self._engine.backward(batch.weight * output["loss"])
            with out_of_memory_as(UpdateMemoryError):
                boundary = self._engine.is_gradient_accumulation_boundary()
                if self._settings.zero_stage == 0 and boundary:
                    unsharded_norm = self._gradient_norm()
                self._engine.step()
            outputs.append(weighted_scalars(output, batch.weight))
        self._steps += 1
        norm = self._engine.get_global_grad_norm() if unsharded_norm is None else unsharded_norm
        norm = torch.as_tensor(norm, device=self.device).reshape(())
        return StepResult(mean_scalars(outputs), norm)

    def _gradient_norm(self) -> Tensor:
        """The norm at stage 0, where gradients are whole and averaged, and DeepSpeed keeps none."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

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
        if self._settings.zero_stage < 3:
            return {n: own_copy(v) for n, v in self.module.state_dict().items()}
        deepspeed = import_deepspeed()
        persistent = self.module.state_dict().keys()
        state = {n: own_copy(v) for n, v in self.module.named_buffers() if n in persistent}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            with deepspeed.zero.GatheredParameters([parameter]):
                state[name] = own_copy(parameter)
        return state

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.destroy()


def deepspeed_config(settings: EngineSettings, world_size: int) -> dict[str, Any]:
    """The DeepSpeed configuration; the optimiser is torch's AdamW at every stage."""
    training = settings.training
    config: dict[str, Any] = {
        # DeepSpeed counts passes; the weights of the loss account for the sequences of each.
        "train_batch_size": settings.accumulation * world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": settings.accumulation,
        "zero_optimization": {"stage": settings.zero_stage},
        # ZeRO may wrap an optimiser it did not build (torch's AdamW, same numbers as unsharded).
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": training.optimizer.grad_clip or 0.0,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
    if training.precision == "bfloat16":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return config
