"""Sizes: core parameters agree between families, from a laptop's rung to 7 B."""

from __future__ import annotations

import time

import pytest

from cola.errors import SpecError
from cola.families.cola.spec import ColaModelSpec
from tests.sizes import FAMILIES, parameter_counts, size_model

RUNGS = [200_000, 500_000] + [int(n * 1e6) for n in (1, 2, 5, 12, 30, 90, 300, 1000, 2000, 7000)]


@pytest.mark.parametrize("target", RUNGS)
def test_families_agree_in_core_parameters(target: int) -> None:
    cores = [parameter_counts(size_model(name, target, 4096)).core for name in FAMILIES]
    assert max(cores) / min(cores) <= (1.01 if target >= 1_000_000 else 1.03)


@pytest.mark.parametrize("target", RUNGS)
def test_shapes_are_friendly_to_hardware(target: int) -> None:
    unit = 64 if target >= 1_000_000 else 16
    for name in FAMILIES:
        spec = size_model(name, target, 4096)
        parts = (spec.vae, spec.dit) if isinstance(spec, ColaModelSpec) else (spec,)
        for part in parts:
            assert part.hidden_size % unit == 0
            assert part.hidden_size % part.num_heads == 0


def test_sizing_is_instant() -> None:
    size_model("cola", 123_456_789, 4096)
    began = time.perf_counter()
    size_model("cola", 987_654_321, 4096)
    assert time.perf_counter() - began < 2.0  # of the order of 20 ms; a plan makes hundreds


@pytest.mark.parametrize("name", FAMILIES)
def test_what_cannot_be_built_is_refused_with_what_can(name: str) -> None:
    with pytest.raises(SpecError, match="at least 50000"):
        size_model(name, 1500, 4096)


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5])
def test_the_vae_gets_about_its_share(share: float) -> None:
    counts = parameter_counts(size_model("cola", 30_000_000, 4096, vae_share=share))
    assert counts.vae_core / counts.core == pytest.approx(share, abs=0.06)
