"""A worker's device: its peak FLOP/s, for MFU, its load, whether this machine compiles for it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Literal

import torch

from cola.errors import RunError
from cola.models.execution import why_not_compiled
from cola.spec.resources import ResourcesSpec
from orchestration.planning.accelerators import ACCELERATORS, accelerator_in

log = logging.getLogger(__name__)
Precision = Literal["float32", "bfloat16"]
MATRIX_SIZE = 1024  # chosen: large enough for the peak, small enough for a core
MEASURED_SECONDS = 0.1  # chosen
# Of a GPU, as NVIDIA's management library reads it: (name, reading, factor to the name's unit).
GPU_READINGS: tuple[tuple[str, Callable[[], int], float], ...] = (
    ("gpu_utilization_percent", torch.cuda.utilization, 1.0),
    ("gpu_power_watts", torch.cuda.power_draw, 1e-3),
    ("gpu_temperature_celsius", torch.cuda.temperature, 1.0),
)
GPU_LOAD = ("gpu_memory_percent", *(name for name, _, _ in GPU_READINGS))


def peak_flops(precision: Precision, device: torch.device | None = None) -> float:
    """Peak FLOP/s of this worker's device, or of the given one, in this precision.

    A GPU's is its data sheet's; a CPU's (or an unlisted GPU's) is measured on a matrix product
    with this worker's threads.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        known = accelerator_in(torch.cuda.get_device_name(device))
        if known is not None:
            return ACCELERATORS[known].peak(precision)
    return measure_matmul_flops(precision, device)


def measure_matmul_flops(precision: Precision, device: torch.device) -> float:
    """FLOP/s of a square matrix product on this device: the fastest of several."""
    a = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device, dtype=getattr(torch, precision))
    torch.mm(a, a)
    best, began = 0.0, time.perf_counter()
    while best == 0.0 or time.perf_counter() - began < MEASURED_SECONDS:
        started = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * MATRIX_SIZE**3 / (time.perf_counter() - started))
    return best


def gpu_load() -> dict[str, float]:
    """What this worker's GPU does, whoever uses it: utilisation and used memory in percent, power,
    temperature. NaN where the machine does not say; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    load = {"gpu_memory_percent": 100 * (1 - free / total)}
    for name, reading, factor in GPU_READINGS:
        try:
            load[name] = factor * reading()
        except Exception as error:  # of the library, which may be missing, or of its driver
            log.debug("%s is not known: %s", name, error)
            load[name] = math.nan
    return load


def compiles_here(resources: ResourcesSpec) -> bool:
    """Whether this process compiles blocks: as planned, where its machine can.

    Raises:
        RunError: it is asked for, and the machine cannot.
    """
    if not resources.compiles:
        return False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lacking = why_not_compiled(device)
    if lacking is None:
        return True
    if resources.compile:
        raise RunError(
            f"resources.compile=true: this machine lacks {lacking}; install it, or give "
            "resources.compile=false"
        )
    log.warning("blocks are not compiled, as this machine lacks %s: training is slower", lacking)
    return False
