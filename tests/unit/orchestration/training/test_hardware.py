"""Whether a machine compiles for its device, in training and in measurements alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from cola.errors import RunError
from cola.spec.resources import ResourcesSpec
from orchestration.benchmark.steps import Execution
from orchestration.training.hardware import compiles_here


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
