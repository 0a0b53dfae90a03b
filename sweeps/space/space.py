"""Points of a space: enumerated in order, suggested by an Optuna trial, or described for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cola.spec.base import canonical_json
from sweeps.space.domains import (
    Choice,
    Domain,
    Integer,
    LogUniform,
    Space,
    contains,
    describe_domain,
    values_of,
)

Point = dict[str, Any]  # key of the study -> value


def grid(space: Space) -> Iterator[Point]:
    """All points of a space of finitely many values, the last key changing fastest."""
    yield from _grid(list(space.items()), {})


def _grid(keys: list[tuple[str, Any]], point: Point) -> Iterator[Point]:
    """All ways to complete `point` with values of `keys`."""
    if not keys:
        yield dict(point)
        return
    (key, domain), *later_keys = keys
    if not applies(domain, point):
        yield from _grid(later_keys, point)
        return
    for value in values_of(domain) or []:
        yield from _grid(later_keys, {**point, key: value})


def applies(domain: Domain, point: Point) -> bool:
    """Whether a key is part of a point, given the values of the keys before it."""
    condition = domain.when
    return condition is None or point.get(condition.key, condition) in condition.among


def why_outside(space: Space, point: Point, ignored: frozenset[str] = frozenset()) -> str | None:
    """Why a point is none of a space, by the first key; None where it is one.

    Keys in `ignored` do not count.
    """
    strangers = [key for key in point if key not in space and key not in ignored]
    if strangers:
        return f"{strangers[0]} is no key of the space"
    earlier: Point = {}
    for key, domain in space.items():
        if not applies(domain, earlier):
            if key in point:
                return f"{key} is no part of this point (when)"
            continue
        if key not in point:
            return f"it has no {key}"
        if not contains(domain, point[key]):
            return f"{key}={_describe_value(point[key])} is not one of {describe_domain(domain)}"
        earlier[key] = point[key]
    return None


def suggest_point(space: Space, trial: Any) -> Point:
    """A point whose values an `optuna.Trial` suggests, key by key."""
    point: Point = {}
    for key, domain in space.items():
        if applies(domain, point):
            point[key] = _suggest_value(key, domain, trial)
    return point


def _suggest_value(key: str, domain: Domain, trial: Any) -> Any:
    if isinstance(domain, Choice):
        labels = [canonical_json(value) for value in domain.values]
        return domain.values[labels.index(trial.suggest_categorical(key, labels))]
    if isinstance(domain, Integer):
        return trial.suggest_int(key, domain.low, domain.high, step=domain.step, log=domain.log)
    if isinstance(domain, LogUniform):
        return trial.suggest_float(key, domain.low, domain.high, log=True)
    return trial.suggest_float(key, domain.low, domain.high, step=domain.step)


def optuna_parameters(space: Space, point: Point) -> dict[str, Any]:
    """The point as Optuna's parameters: choices by their JSON, keys outside the space left out."""
    return {
        key: canonical_json(value) if isinstance(space[key], Choice) else value
        for key, value in point.items()
        if key in space
    }


def describe_point(point: Point) -> str:
    """One line with the last part of each key and its value."""
    return ", ".join(
        f"{key.rsplit('.', 1)[-1]}={_describe_value(value)}" for key, value in point.items()
    )


def _describe_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else canonical_json(value)
