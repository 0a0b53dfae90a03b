"""PointPlanner of a space: all of them in order, or drawn by an Optuna trial."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cola.spec.base import canonical_json
from sweeps.space.domains import Choice, Integer, LogUniform, Space, Uniform, values_of

Point = dict[str, Any]  # key of the study -> value


def grid(space: Space) -> Iterator[Point]:
    """All points of a space of finitely many values, the last key changing fastest."""
    yield from _grid(list(space.items()), {})


def _grid(left: list[tuple[str, Any]], point: Point) -> Iterator[Point]:
    if not left:
        yield dict(point)
        return
    (key, domain), *rest = left
    if not applies(domain, point):
        yield from _grid(rest, point)
        return
    for value in values_of(domain) or []:
        yield from _grid(rest, {**point, key: value})


def applies(domain: Choice | Uniform | LogUniform | Integer, point: Point) -> bool:
    """Whether a key takes part, given the values of those before it."""
    condition = domain.when
    return condition is None or point.get(condition.key, condition) in condition.among


def suggest_point(space: Space, trial: Any) -> Point:
    """A point whose values an `optuna.Trial` suggests, key by key."""
    point: Point = {}
    for key, domain in space.items():
        if applies(domain, point):
            point[key] = _suggested(key, domain, trial)
    return point


def _suggested(key: str, domain: Choice | Uniform | LogUniform | Integer, trial: Any) -> Any:
    if isinstance(domain, Choice):
        labels = [canonical_json(value) for value in domain.values]
        return domain.values[labels.index(trial.suggest_categorical(key, labels))]
    if isinstance(domain, Integer):
        return trial.suggest_int(key, domain.low, domain.high, step=domain.step, log=domain.log)
    if isinstance(domain, LogUniform):
        return trial.suggest_float(key, domain.low, domain.high, log=True)
    return trial.suggest_float(key, domain.low, domain.high, step=domain.step)


def optuna_parameters(space: Space, point: Point) -> dict[str, Any]:
    """The point in Optuna's own values (choices by their JSON)."""
    return {
        key: canonical_json(value) if isinstance(space[key], Choice) else value
        for key, value in point.items()
        if key in space
    }


def describe_point(point: Point) -> str:
    """A point for people: keys by their last part."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]}={_short(value)}" for key, value in point.items())


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else canonical_json(value)
