"""DeepSpeed's private parts: the installed version is the one they were checked with, and has them.

What they mean is tested where checkpoints move between ZeRO stages (tests/integration).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import subprocess
import sys

import pytest

from orchestration.compat.deepspeed import CHECKED_VERSION
from orchestration.training.deepspeed_engine import import_deepspeed
from tests.unit.orchestration.compat.test_ray import ROOT, requirement


def test_the_installed_version_is_the_checked_one() -> None:
    assert importlib.metadata.version("deepspeed") == CHECKED_VERSION
    assert f"\ndeepspeed=={CHECKED_VERSION} \\\n" in (ROOT / "constraints.txt").read_text()


def test_the_next_minor_version_is_not_installed_unchecked() -> None:
    major, minor, _ = map(int, CHECKED_VERSION.split("."))
    allowed = requirement("deepspeed").specifier
    assert CHECKED_VERSION in allowed
    assert f"{major}.{minor}.99" in allowed
    assert f"{major}.{minor + 1}.0" not in allowed


@pytest.mark.deepspeed
def test_every_private_name_exists() -> None:
    deepspeed = import_deepspeed()
    from deepspeed.runtime.zero import partition_parameters, stage3, stage_1_and_2
    from deepspeed.utils import mixed_precision_linkage

    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False
    third, lower = stage3.DeepSpeedZeroOptimizer_Stage3, stage_1_and_2.DeepSpeedZeroOptimizer
    for name in ("get_param_id", "checkpoint_event_prologue", "checkpoint_event_epilogue"):
        assert callable(getattr(third, name))
    for name in ("grad_position", "fp32_partitioned_groups_flat", "optimizer"):
        assert f"self.{name} = " in inspect.getsource(third)
    for name in ("single_partition_of_fp32_groups", "optimizer"):
        assert f"self.{name} = " in inspect.getsource(lower)
    mapping = importlib.import_module("deepspeed.utils.tensor_fragment").tensor_fragment
    fields = {"lp_fragment_address", "hp_fragment_address", "param_group_index"}
    assert fields <= {field.name for field in dataclasses.fields(mapping)}
    assert "._hp_mapping = " in inspect.getsource(mixed_precision_linkage)
    source = inspect.getsource(partition_parameters)
    for name in ("ds_numel", "ds_tensor", "partition_numel"):
        assert f"param.{name} = " in source


@pytest.mark.deepspeed
def test_a_worker_does_not_load_mlflow() -> None:
    code = (
        "import sys\n"
        "from orchestration.training.deepspeed_engine import import_deepspeed\n"
        "import_deepspeed()\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'mlflow'])\n"
        "import mlflow\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"
