"""Versions and hardware that a run trained on, recorded with every run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform

PACKAGES = (
    "cola-scaling",
    "datasets",
    "deepspeed",
    "mlflow",
    "numpy",
    "ray",
    "tokenizers",
    "torch",
    "transformers",
)


def describe_environment(zero_stage: int, workers: int) -> str:
    """A JSON object: Python, platform, devices, package versions, workers and ZeRO stage."""
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return json.dumps(
        {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cpu_count": os.cpu_count(),
            "threads_per_worker": torch.get_num_threads(),
            "gpus": devices,
            "cuda": torch.version.cuda,
            "workers": workers,
            "zero_stage": zero_stage,
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        },
        indent=1,
        sort_keys=True,
    )
