"""DeepSpeed ZeRO 0-3 behind the `Engine` protocol (the only module that imports deepspeed)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cola.families import StageModule
from orchestration.engine import (
    EngineSettings,
    Groups,
    StepResult,
    adamw,
    autocast,
    detached,
    mean_of,
    set_learning_rates,
    write_state,
)

CHECKPOINT_TAG = "engine"


def import_deepspeed() -> Any:
    """Import DeepSpeed for the accelerator that is here.

    On a CPU its shared-memory operator is switched off: it would be compiled with g++ at first
    use, and the collectives of training fall back to gloo without it.
    """
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    import deepspeed

    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


class DeepSpeedEngine:
    """A stage under DeepSpeed; needs an initialised process group of the right size."""

    def __init__(self, module: StageModule, groups: Groups, settings: EngineSettings) -> None:
        deepspeed = import_deepspeed()
        self._settings = settings
        if settings.compile:
            module.compile()
        engine, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=adamw(groups, settings),
            config=deepspeed_config(settings, dist.get_world_size()),
            dist_init_required=False,
        )
        self._engine = engine
        self.module: StageModule = engine.module
        self.device: torch.device = torch.device(engine.device)
        self._steps = 0

    def step(self, inputs: Sequence[dict[str, Tensor]], factor: float) -> StepResult:
        """See `Engine.step`."""
        groups = self._engine.optimizer.param_groups
        set_learning_rates(groups, self._settings.training, factor, self._steps)
        outputs, unsharded_norm = [], None
        for micro in inputs:
            output = self._engine(**micro)
            self._engine.backward(output["loss"])
            if self._settings.zero_stage == 0 and self._engine.is_gradient_accumulation_boundary():
                unsharded_norm = self._gradient_norm()
            self._engine.step()
            outputs.append(detached(output))
        self._steps += 1
        norm = self._engine.get_global_grad_norm() if unsharded_norm is None else unsharded_norm
        return StepResult(mean_of(outputs), float(norm))

    def _gradient_norm(self) -> Tensor:
        """DeepSpeed keeps no norm at stage 0; gradients are whole and averaged there."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """See `Engine.autocast`."""
        return autocast(self.device, self._settings.training.precision)

    def save(self, folder: Path) -> None:
        """See `Engine.save`."""
        client_state = {"steps": self._steps}
        with _postponed_errors(self._engine) as errors:
            self._engine.save_checkpoint(
                str(folder), tag=CHECKPOINT_TAG, client_state=client_state, save_latest=False
            )
        if errors:
            raise errors[0]

    def load(self, folder: Path) -> None:
        """See `Engine.load`."""
        loaded, client_state = self._engine.load_checkpoint(str(folder), tag=CHECKPOINT_TAG)
        if loaded is None:
            raise RuntimeError(f"DeepSpeed found no checkpoint in {folder}")
        self._steps = client_state["steps"]

    def full_state_dict(self) -> dict[str, Tensor]:
        """See `Engine.full_state_dict`."""
        if self._settings.zero_stage < 3:
            return {n: v.detach().cpu() for n, v in self.module.state_dict().items()}
        deepspeed = import_deepspeed()
        kept = self.module.state_dict().keys()  # buffers that are not persistent stay out
        state = {n: v.detach().cpu() for n, v in self.module.named_buffers() if n in kept}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            with deepspeed.zero.GatheredParameters([parameter]):
                state[name] = parameter.detach().cpu().clone()
        return state

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.destroy()


@contextlib.contextmanager
def _postponed_errors(engine: Any) -> Iterator[list[OSError]]:
    """Within, a file that cannot be written is noted, and DeepSpeed goes on.

    `save_checkpoint` ends with a barrier: a worker that left it before would keep all others there.
    The scripts that DeepSpeed would copy beside the state are left out.
    """
    errors: list[OSError] = []
    writer = engine.checkpoint_engine
    save, copy = writer.save, engine._copy_recovery_script

    def save_or_note(state_dict: Any, path: str) -> None:
        try:
            write_state(state_dict, Path(path))
        except OSError as error:
            errors.append(error)

    writer.save, engine._copy_recovery_script = save_or_note, lambda save_path: None
    try:
        yield errors
    finally:
        writer.save, engine._copy_recovery_script = save, copy


def deepspeed_config(settings: EngineSettings, world_size: int) -> dict[str, Any]:
    """The DeepSpeed configuration; the optimiser is torch's AdamW, the same at every stage."""
    training = settings.training
    micro, accumulation = settings.micro_batch_sequences, settings.accumulation
    config: dict[str, Any] = {
        "train_batch_size": micro * accumulation * world_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
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
