"""What a sweep cannot be: its space, its population and its question against each other."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import permutations

from cola.records import RATE_CHANGES
from sweeps.space.domains import Space, values_of
from sweeps.space.samplers import check_population_keys

ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_arm_names(names: Iterable[str]) -> None:
    """Refuse names of arms that cannot be a part of the names of folders and runs.

    Raises:
        ValueError: naming it.
    """
    for name in names:
        if not ARM_NAME.fullmatch(name):
            raise ValueError(
                f"arms: {name!r} is no name of an arm; use letters, digits, '.', '_' and '-', at "
                "most 64, a letter or digit first"
            )


def check_space(space: Space, algorithm: str) -> None:
    """Refuse an empty space, conditions on later keys, endless grids, and keys within others.

    Raises:
        ValueError: naming the key.
    """
    if not space:
        raise ValueError("space: name at least one key (in the sweep or in each of its arms)")
    before: set[str] = set()
    for key, domain in space.items():
        condition = domain.when
        if condition is not None and condition.key not in before:
            raise ValueError(f"space.{key}.when.key={condition.key!r} must be a key before it")
        before.add(key)
        if algorithm == "grid" and values_of(domain) is None:
            raise ValueError(
                f"space.{key}: a grid needs finitely many values; give step, or another algorithm"
            )
    for outer, inner in permutations(space, 2):
        if inner.startswith(f"{outer}."):
            raise ValueError(
                f"space.{inner}: is a part of {outer}, which the space has too, so that one of "
                "them has no effect; name one of the two"
            )


def check_population(metric: str, spaces: Iterable[Space], members: int) -> None:
    """Refuse what a population cannot be judged by, or drawn from.

    Raises:
        ValueError: naming the key.
    """
    if not metric.startswith("val/"):
        raise ValueError(
            f"metrics: {metric} is not measured while runs train; pbt needs a val/ one"
        )
    for space in spaces:
        if RATE_CHANGES in space:
            raise ValueError(f"space.{RATE_CHANGES}: is what pbt finds; leave it out")
        check_population_keys(space)
        size = space_size(space)
        if size is not None and size < members:
            raise ValueError(
                f"scheduler.population.members={members}: the space has {size} points only; lower "
                "members, or give ranges in place of choices"
            )


def check_answer(
    kind: str, keys: Iterable[str], *, spaces: Mapping[str, Space], metrics: int
) -> None:
    """Refuse a question that the sweep cannot answer; `keys` are those of its two sides.

    Raises:
        ValueError: it names keys that no arm has both of, or needs two metrics.
    """
    if kind == "tradeoff" and metrics < 2:
        raise ValueError("answer: a tradeoff is between two metrics; give metrics a second one")
    keys = list(keys)
    if any(all(key in space for key in keys) for space in spaces.values()):
        return
    known = dict.fromkeys(key for space in spaces.values() for key in space)
    missing = next((key for key in keys if key not in known), keys[0])
    raise ValueError(
        f"answer: {missing} is no key of the space that the question can be asked of; it has "
        f"{', '.join(known)}"
    )


def space_size(space: Space) -> int | None:
    """Number of points of a space without its conditions: an upper bound. None: not finite."""
    counts = [values_of(domain) for domain in space.values()]
    return None if None in counts else math.prod(len(values or []) for values in counts)
