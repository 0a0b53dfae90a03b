"""Several jobs of one study on a real Slurm."""

from __future__ import annotations

import pytest

from tests.cluster.rig import Rig, missing
from tests.cluster.test_slurm import rig, study  # noqa: F401 (fixtures)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


def test_jobs_side_by_side_train_each_run_once(
    rig: Rig,  # noqa: F811
    study: str,  # noqa: F811
) -> None:
    """Two jobs of one study: no run twice, whoever takes which; both end well."""
    two = ("--set", "seeds=[0, 1]", "--set", "name=shared", "--allocations", "2")
    shown = rig.run("cola", "submit", study, *two, "--cluster", "rig")
    assert shown.count(": submitted") == 2
    assert rig.log("shared").count(": launched") == 2
    assert rig.run("cola", "jobs", "shared", "--cluster", "rig").count("succeeded") == 2
    assert rig.run("cola", "status", "shared", "--cluster", "rig").count("finished") == 2
