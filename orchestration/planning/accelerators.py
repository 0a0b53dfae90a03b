"""Peak rates and memory of accelerators, and the share of the peak that training reaches.

Torch-free. An MFU here is executed FLOPs (see `cola.compute.flops`) over the dense peak.
"""

from __future__ import annotations

from dataclasses import dataclass

from cola.spec.resources import ResourcesSpec


@dataclass(frozen=True)
class Accelerator:
    """Dense peak FLOP/s (float32 without TF32), bytes of memory, assumed MFU."""

    float32: float
    bfloat16: float
    memory: float | None
    mfu: float

    def peak(self, precision: str) -> float:
        """Peak FLOP/s in this precision."""
        return self.bfloat16 if precision == "bfloat16" else self.float32


# Peaks and memory of GPUs are those of NVIDIA's data sheets (SXM where there is one, dense). The
# MFUs are chosen, at the lower end of what is published for dense Transformers: `resources.mfu`
# and `cola plan --calibrate` replace them. A CPU is one core of a recent x86 server, with chosen
# rates: `orchestration.training.hardware` measured 75e9 to 180e9 (float32) on a shared Xeon core.
ACCELERATORS: dict[str, Accelerator] = {
    "H200": Accelerator(67e12, 989e12, 141e9, 0.4),
    "H100": Accelerator(67e12, 989e12, 80e9, 0.4),
    "A100": Accelerator(19.5e12, 312e12, 80e9, 0.45),
    "L40S": Accelerator(91.6e12, 362e12, 48e9, 0.35),
    "CPU": Accelerator(110e9, 450e9, None, 0.3),
}
# Of workers, imports and the first step: the bar of tests/benchmarks/machinery.py. On a private
# cluster only a first run needs it, so that a plan of many small runs is too long there.
STARTUP_SECONDS = 20.0


def accelerator_name(resources: ResourcesSpec) -> str:
    """The accelerator that a plan is made for."""
    return resources.accelerator or ("H100" if resources.gpus_per_worker else "CPU")


def accelerator_of(resources: ResourcesSpec) -> Accelerator:
    """Rates and memory of the accelerator that a plan is made for."""
    return ACCELERATORS[accelerator_name(resources)]


def worker_flops(resources: ResourcesSpec, precision: str) -> float:
    """Executed FLOP/s that one worker is assumed to reach."""
    kind = accelerator_of(resources)
    return kind.peak(precision) * (resources.mfu or kind.mfu) * resources.units_per_worker
