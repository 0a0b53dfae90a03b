"""Whether an optimum lies on an edge of what was searched, and what lies beyond it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from sweeps.space.domains import Choice, Domain, Integer, LogUniform, Space
from sweeps.space.space import Point

EDGE_SHARE = 0.1  # of a range at each of its ends: an optimum there lies on the edge; chosen
STEP_SHARE = 0.25  # of a range that is not logarithmic: one step beyond its edge; chosen


@dataclass(frozen=True)
class Edge:
    """The best value of a key lies on this side of what was searched."""

    key: str
    side: Literal["low", "high"]
    value: float


def edges_of(space: Space, best: Point, tried: Iterable[Point]) -> list[Edge]:
    """Keys of which the best point lies on an edge.

    It is within a tenth of the range from its end (or the outermost of some numbers, or beyond
    the range), and no point that was `tried` lies further out.
    """
    points, edges = list(tried), []
    for key, domain in space.items():
        value, bounds = best.get(key), bounds_of(domain)
        if bounds is None or not is_number(value):
            continue
        values = [point[key] for point in points if is_number(point.get(key))]
        place = _place(domain, float(value), bounds)
        if place <= EDGE_SHARE and not any(other < value for other in values):
            edges.append(Edge(key, "low", value))
        elif place >= 1 - EDGE_SHARE and not any(other > value for other in values):
            edges.append(Edge(key, "high", value))
    return edges


def bounds_of(domain: Domain) -> tuple[float, float] | None:
    """Smallest and largest number of a domain; None of one without two numbers."""
    if not isinstance(domain, Choice):
        return float(domain.low), float(domain.high)
    numbers = _numbers(domain)
    return (float(numbers[0]), float(numbers[-1])) if len(numbers) > 1 else None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a key is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def beyond(space: Space, best: Point, edge: Edge, factor: float) -> Point:
    """The best point with the edge's key one step further out.

    A step multiplies or divides by `factor` in a logarithmic range, by the last ratio of some
    numbers, and is a quarter of any other range.
    """
    return {**best, edge.key: _further(space[edge.key], edge, factor)}


def _further(domain: Domain, edge: Edge, factor: float) -> Any:
    sign = 1 if edge.side == "high" else -1
    whole = isinstance(edge.value, int)
    if isinstance(domain, Choice):
        numbers = _numbers(domain)
        whole = all(isinstance(number, int) for number in numbers)
        inner, outer = numbers[-2:] if sign > 0 else (numbers[1], numbers[0])
        positive = min(inner, outer) > 0
        moved = edge.value * outer / inner if positive else edge.value + outer - inner
    elif _is_logarithmic(domain):
        moved = edge.value * factor**sign
    else:
        step = max(STEP_SHARE * (domain.high - domain.low), getattr(domain, "step", None) or 0)
        moved = edge.value + sign * step
    return round(moved) if whole else moved


def _numbers(domain: Choice) -> Sequence[Any]:
    return sorted(value for value in domain.values if is_number(value))


def _is_logarithmic(domain: Domain) -> bool:
    return isinstance(domain, LogUniform) or (isinstance(domain, Integer) and domain.log)


def _place(domain: Domain, value: float, bounds: tuple[float, float]) -> float:
    """Where a value lies between the bounds: 0 at the lower one, 1 at the upper one."""
    low, high = bounds
    if isinstance(domain, Choice):
        return 0.0 if value <= low else 1.0 if value >= high else 0.5
    if _is_logarithmic(domain):
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
