"""Peak rates of accelerators, and the time a run is expected to take (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass

from cola.spec.study import ResourcesSpec


@dataclass(frozen=True)
class Accelerator:
    """Dense peak FLOP/s by data sheet (float32 without TF32), and the MFU assumed of it."""

    float32: float
    bfloat16: float
    mfu: float

    def peak(self, precision: str) -> float:
        """Peak FLOP/s in this precision."""
        return self.bfloat16 if precision == "bfloat16" else self.float32


GPUS: dict[str, Accelerator] = {
    "H200": Accelerator(67e12, 989e12, 0.4),
    "H100": Accelerator(67e12, 989e12, 0.4),
    "A100": Accelerator(19.5e12, 312e12, 0.45),
    "L40S": Accelerator(91.6e12, 362e12, 0.35),
}
# One core of a recent x86 server: matrix products reach about this, training of small models
# about a third of it.
CPU_CORE = Accelerator(110e9, 450e9, 0.3)

STARTUP_SECONDS = 20.0


def estimated_seconds(
    train_flops_executed: float, precision: str, resources: ResourcesSpec, gpu: str = "H100"
) -> float:
    """Expected wall time of one run on its workers: start-up, then FLOPs at the assumed MFU."""
    if resources.gpus_per_worker:
        rate = GPUS[gpu].peak(precision) * GPUS[gpu].mfu * resources.gpus_per_worker
    else:
        rate = CPU_CORE.peak(precision) * CPU_CORE.mfu * resources.cpus_per_worker
    return STARTUP_SECONDS + train_flops_executed / (rate * resources.workers)
