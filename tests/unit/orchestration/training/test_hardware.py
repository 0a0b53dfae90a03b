"""Whether a machine compiles for its device, and what its GPUs do while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cola.errors import RunError
from cola.spec.resources import ResourcesSpec
from orchestration.benchmark.steps import Execution
from orchestration.training import hardware
from orchestration.training.hardware import compiles_here
from orchestration.training.hooks import load_metrics


def test_blocks_are_compiled_where_the_machine_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ResourcesSpec(compile=True)
    planned = ResourcesSpec(gpus_per_worker=1, accelerator="H100")
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiles_here(asked)
    assert compiles_here(planned)
    assert not compiles_here(ResourcesSpec())
    assert Execution.of(planned, None).compile
    compiler.unlink()
    # Planned by default, it is left out; asked for, it is an error.
    assert not compiles_here(planned)
    assert not Execution.of(planned, None).compile
    lacking = r"compile=true: this machine lacks a C\+\+ compiler"
    with pytest.raises(RunError, match=lacking):
        compiles_here(asked)
    with pytest.raises(RunError, match=lacking):
        Execution.of(asked, None)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, **readings: Any) -> dict[str, float]:
    """The load of a GPU of which 30 of 40 GB are free, with these answers of NVIDIA's library."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30e9, 40e9))
    given = [(name, readings[name], factor) for name, _, factor in hardware.GPU_READINGS]
    monkeypatch.setattr(hardware, "GPU_READINGS", given)
    return hardware.gpu_load()


def missing() -> int:
    raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")


def test_a_gpus_load_is_in_the_units_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_a_gpu(
        monkeypatch,
        gpu_utilization_percent=lambda: 87,
        gpu_power_watts=lambda: 412_500,  # milliwatts
        gpu_temperature_celsius=lambda: 61,
    )
    assert tuple(found) == hardware.GPU_LOAD
    assert found == {
        "gpu_memory_percent": 25.0,
        "gpu_utilization_percent": 87.0,
        "gpu_power_watts": 412.5,
        "gpu_temperature_celsius": 61.0,
    }


def test_what_a_driver_does_not_tell_is_left_out_on_all_workers_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = dict.fromkeys((name for name, _, _ in hardware.GPU_READINGS), missing)
    found = on_a_gpu(monkeypatch, **answers)
    assert tuple(found) == hardware.GPU_LOAD  # workers average the same names
    logged = load_metrics({name: (value, value) for name, value in found.items()})
    assert logged["system/gpu_memory_percent"] == 25.0
    assert not [name for name in logged if "power" in name or "utilization" in name]


def test_means_of_gpus_are_the_systems_and_the_largest_is_beside_them() -> None:
    logged = load_metrics({"gpu_power_watts": (300.0, 500.0), "memory_gb": (1.0, 2.0)})
    assert logged["system/gpu_power_watts"] == 300.0
    assert logged["workers/max/gpu_power_watts"] == 500.0
    assert (logged["workers/mean/memory_gb"], logged["workers/max/memory_gb"]) == (1.0, 2.0)
    assert 0 <= logged["system/memory_percent"] <= 100


def test_without_a_gpu_there_is_no_load_of_one() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert hardware.gpu_load() == {}
