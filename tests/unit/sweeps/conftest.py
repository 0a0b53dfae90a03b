"""A sweep over the tiny study."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def tiny_sweep(tiny_study: dict[str, Any]) -> dict[str, Any]:
    """Cola DLM's block size by its timestep loc, as a grid."""
    del tiny_study["name"]
    tiny_study["families"] = {"cola": tiny_study["families"]["cola"]}
    return {
        "name": "tiny-sweep",
        "study": tiny_study,
        "space": {
            "families.cola.block_size": [8, 16, 24, 64],
            "families.cola.objective.stage2.timestep.timestep_loc": [0.0, 1.0],
        },
        "algorithm": {"kind": "grid"},
    }
