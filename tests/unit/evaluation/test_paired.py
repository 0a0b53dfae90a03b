"""Two models on the same items."""

from __future__ import annotations

import numpy as np
import pytest

from cola.evaluation.statistics import paired_difference


def test_the_interval_covers_the_true_difference() -> None:
    """Models that differ by 0.1 item by item, in items that differ much more among each other."""
    draw, covered = np.random.default_rng(1), 0
    for _ in range(100):
        hard = draw.normal(0, 5, 80)
        first, second = hard + draw.normal(0.1, 0.2, 80), hard + draw.normal(0, 0.2, 80)
        found = paired_difference(dict(enumerate(first)), dict(enumerate(second)))
        covered += found.low <= 0.1 <= found.high
        assert found.high - found.low < 0.3  # the items' own spread is not in it
    assert 88 <= covered <= 100


def test_the_order_of_items_does_not_matter() -> None:
    first, second = {1: 1.0, "b": 0.0, 3: 1.0}, {3: 1.0, 1: 0.0, "b": 0.0}
    found = paired_difference(first, second)
    assert (found.mean, found.items) == (1 / 3, 3)
    opposite = paired_difference(second, first)
    assert opposite.mean == -1 / 3


@pytest.mark.parametrize("other", [{1: 0.0}, {1: 0.0, 2: 0.0, 3: 0.0}, {}])
def test_other_items_are_refused(other: dict[int | str, float]) -> None:
    with pytest.raises(ValueError, match="not measured on the same items"):
        paired_difference({1: 0.0, 2: 1.0}, other)
    with pytest.raises(ValueError, match="same items"):
        paired_difference({}, {})
