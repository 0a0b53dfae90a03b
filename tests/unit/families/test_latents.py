"""Rounding of rules for latents, and the capacity of their channel."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.compute.channel import channel_nats
from cola.families.cola.latents import patches, whole_dimension, whole_patch


@given(block=st.integers(1, 64), blocks=st.integers(1, 64), share=st.floats(0.01, 0.99))
def test_a_patch_by_rule_divides_blocks_and_is_the_nearest_that_does(
    block: int, blocks: int, share: float
) -> None:
    length = block * blocks
    possible = patches(block, length)
    value = possible[0] * (possible[-1] / possible[0]) ** share
    if float(value).is_integer() and value not in possible:
        with pytest.raises(ValueError, match="do not divide"):
            whole_patch(value, block, length)
        return
    patch = whole_patch(value, block, length)
    assert length % (patch * block) == 0
    assert abs(math.log(patch / value)) == min(abs(math.log(p / value)) for p in possible)


@pytest.mark.parametrize(("value", "whole"), [(0.5, 1), (1.4, 1), (1.6, 2), (15.5, 16)])
def test_a_dimension_by_rule_is_the_nearest_whole_one(value: float, whole: int) -> None:
    assert whole_dimension(value) == whole


@pytest.mark.parametrize("value", [0.0, 0.49, -3.0, math.inf, math.nan])
def test_no_whole_dimension_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no whole number"):
        whole_dimension(value)


@pytest.mark.parametrize(
    ("latent_dim", "patch_size", "log_snr", "nats"),
    [
        (4, 4, 2.0, 1.06),
        (4, 2, 2.0, 2.13),
        (8, 1, 3.0, 12.19),
        (1, 4, 2.0, 0.27),
        (16, 1, 5.0, 40.05),
    ],
)
def test_the_capacity_is_that_of_gaussian_channels(
    latent_dim: int, patch_size: int, log_snr: float, nats: float
) -> None:
    """Of recorded runs, to two decimals; at a large logSNR half of it a dimension."""
    assert channel_nats(latent_dim, log_snr) / patch_size == pytest.approx(nats, abs=0.005)
    assert channel_nats(2, 900.0) == pytest.approx(900.0)
