"""Sizes: core parameters agree between families, from a laptop's rung to 7 B."""

from __future__ import annotations

import pytest

from cola.errors import SpecError
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
        parts = [getattr(spec, part) for part in ("vae", "dit") if hasattr(spec, part)] or [spec]
        for part in parts:
            assert part.hidden_size % unit == 0
            assert part.hidden_size % part.num_heads == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_what_cannot_be_built_is_refused_with_what_can(name: str) -> None:
    with pytest.raises(SpecError, match=rf"^1500 cannot be met by {name}.*; use .*50000"):
        size_model(name, 1500, 4096)
    assert parameter_counts(size_model(name, 50_000, 4096)).core == pytest.approx(50_000, rel=0.02)


def test_a_size_that_lies_between_two_shapes_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"^52109 cannot be met by ar .*; use 51360$"):
        size_model("ar", 52_109, 4096)
    assert parameter_counts(size_model("ar", 51_360, 4096)).core == pytest.approx(51_360, rel=0.014)


def test_a_large_size_whose_parts_cannot_be_built_is_not_told_to_use_a_small_one() -> None:
    said = r"^1000000 cannot be met by cola: .*; use more, or other settings of families\.cola$"
    with pytest.raises(SpecError, match=said):
        size_model("cola", 1_000_000, 4096, vae_share=0.02)


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5])
def test_the_vae_gets_about_its_share(share: float) -> None:
    counts = parameter_counts(size_model("cola", 30_000_000, 4096, vae_share=share))
    assert counts.vae_core / counts.core == pytest.approx(share, abs=0.06)
