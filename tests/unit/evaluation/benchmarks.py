"""Where the release's items and outputs are, for tests that read them."""

from __future__ import annotations

from pathlib import Path

import pytest


def benchmarks() -> Path:
    """`shared/benchmarks` beside the checkout or above it; without it the test is skipped."""
    for parent in Path(__file__).resolve().parents:
        folder = parent / "shared" / "benchmarks"
        if folder.is_dir():
            return folder
    pytest.skip("../shared/benchmarks is absent: the release's items and outputs are not there")
