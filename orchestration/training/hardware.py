"""What a worker's device can do at most, for MFU."""

from __future__ import annotations

import time
from typing import Literal

import torch

from orchestration.planning.accelerators import ACCELERATORS

Precision = Literal["float32", "bfloat16"]


def peak_flops(precision: Precision) -> float:
    """Peak FLOP/s of this worker's device in this precision.

    A GPU's is its data sheet's; a CPU's (or an unlisted GPU's) is measured on a matrix product
    with the threads this worker has, which takes about 0.1 s.
    """
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        for model, accelerator in ACCELERATORS.items():
            if model in name:
                return accelerator.peak(precision)
    return measured_matmul_flops(precision)


def measured_matmul_flops(precision: Precision, size: int = 1024, seconds: float = 0.1) -> float:
    """FLOP/s of a square matrix product on this worker's device: the best of several."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
    torch.mm(a, a)
    best, began = 0.0, time.perf_counter()
    while best == 0.0 or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best
