"""Parts of a sequence, in order (`itertools.batched`, which Python 3.11 does not have)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive lists of `size` items, the last one of what is left."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
