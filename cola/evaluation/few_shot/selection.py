"""Which of a task's items are asked: spread over the parts of its data set, or the first ones.

Data sets are sorted (MMLU by subject, HellaSwag by source), so that their first items stand for a
part of them alone.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cola.evaluation.items import Id, id_key
from cola.records import TaskSelection


@dataclass(frozen=True)
class Selection:
    """At most `limit` items (None: all), `how` they are selected, and the `seed` of a draw."""

    limit: int | None = None
    how: TaskSelection = "stratified"
    seed: int = 0

    def of(self, ids: Sequence[Id], strata: Sequence[str | None]) -> list[int]:
        """The places of the selected items, in their order.

        Stratified: every stratum has an item before any has two, and what is left is shared out in
        proportion to their sizes (Huntington and Hill's method). Which items of a stratum follows
        from seed and id alone, whatever order they are in, and more items contain the fewer.
        """
        if self.limit is None or self.limit >= len(ids):
            return list(range(len(ids)))
        if self.how == "first":
            return list(range(self.limit))
        parts: dict[str, list[int]] = {}
        for place, stratum in enumerate(strata):
            parts.setdefault(stratum or "", []).append(place)
        for name, places in parts.items():
            parts[name] = sorted(places, key=lambda place: self.draw("item", id_key(ids[place])))
        counts = self._shared_out({name: len(places) for name, places in parts.items()}, self.limit)
        return sorted(place for name, count in counts.items() for place in parts[name][:count])

    def _shared_out(self, sizes: Mapping[str, int], limit: int) -> dict[str, int]:
        """How many of `limit` items each stratum has, at most its size."""
        counts = dict.fromkeys(sizes, 0)

        def turn(name: str) -> tuple[float, bytes, str]:
            taken = counts[name]
            share = math.inf if taken == 0 else sizes[name] / math.sqrt(taken * (taken + 1))
            return -share, self.draw("stratum", name), name

        waiting = [turn(name) for name in sizes]
        heapq.heapify(waiting)
        for _ in range(limit):
            _, _, name = heapq.heappop(waiting)
            counts[name] += 1
            if counts[name] < sizes[name]:
                heapq.heappush(waiting, turn(name))
        return counts

    def draw(self, what: str, key: Id) -> bytes:
        """A random number of an item or a stratum, as bytes."""
        return hashlib.blake2b(repr((self.seed, what, key)).encode(), digest_size=16).digest()
