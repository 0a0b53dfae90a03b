"""Batches are the items in order, cut at one size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cola.batches import batches


@given(st.lists(st.integers()), st.integers(min_value=1, max_value=9))
def test_batches_are_the_items_in_order(items: list[int], size: int) -> None:
    parts = list(batches(iter(items), size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(parts)
