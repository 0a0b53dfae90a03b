"""A sweep whose values are as the study's keys hold them: texts of numbers are numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cola.errors import SpecError
from cola.spec import canonical_json, check_path
from cola.spec.typed_values import converter
from cola.study import StudySpec
from sweeps.space.domains import (
    Choice,
    Condition,
    Domain,
    Integer,
    Range,
    Space,
    contains,
    describe_domain,
    values_of,
)
from sweeps.space.space import Point
from sweeps.space.spec import SweepSpec

MOST_PROBES = 9  # values of a range that are tried; a chosen value


def typed_sweep(sweep: SweepSpec, origin: str) -> SweepSpec:
    """The sweep with every value of its spaces and start points in the form that its key holds.

    Raises:
        SpecError: a key is unknown, or a value is none that the key can have, is listed twice, or
            is not one of the space; the message has its path.
    """
    arms = {}
    for name, arm in sweep.arms.items():
        space = _typed_space(arm.space, f"arms.{name}.space", origin)
        arms[name] = arm.model_copy(update={"space": space})
    typed = sweep.model_copy(
        update={"space": _typed_space(sweep.space, "space", origin), "arms": arms}
    )
    start = [
        _typed_start(point, f"start.{index}", origin) for index, point in enumerate(sweep.start)
    ]
    typed = typed.model_copy(update={"start": start})
    for name, space in typed.spaces().items():
        own = typed.arms[name].space if name else {}
        for key in space:
            where = f"arms.{name}.space.{key}" if key in own else f"space.{key}"
            _check_condition(space, key, where, origin=origin)
    _check_start(typed, origin)
    _check_drift(typed, origin)
    return typed


def typed_point(point: Point) -> Point:
    """A point of an earlier call with its values in the form in which their keys hold them.

    A value that its key cannot have any more is left as it is.
    """
    typed = {}
    for key, value in point.items():
        try:
            typed[key] = converter(StudySpec, key)(value)
        except ValueError:
            typed[key] = value
    return typed


def _typed_space(space: Space, where: str, origin: str) -> Space:
    return {
        key: _typed_domain(key, domain, f"{where}.{key}", origin=origin)
        for key, domain in space.items()
    }


def _typed_domain(key: str, domain: Domain, where: str, *, origin: str) -> Domain:
    check_path(StudySpec, key, f"{where} of {origin}")
    convert = converter(StudySpec, key)
    changes: dict[str, Any] = {}
    if isinstance(domain, Choice):
        changes["values"] = [
            _converted(convert, value, f"{where}.values.{index}", origin=origin)
            for index, value in enumerate(domain.values)
        ]
        _check_distinct(changes["values"], f"{where}.values", origin)
    else:
        _check_range(domain, convert, where, origin=origin)
    if domain.when is not None:
        changes["when"] = _typed_condition(domain.when, f"{where}.when", origin)
    return domain.model_copy(update=changes)


def _typed_condition(condition: Condition, where: str, origin: str) -> Condition:
    check_path(StudySpec, condition.key, f"{where} of {origin}")
    convert = converter(StudySpec, condition.key)
    among = [
        _converted(convert, value, f"{where}.among.{index}", origin=origin)
        for index, value in enumerate(condition.among)
    ]
    return condition.model_copy(update={"among": among})


def _typed_start(point: Point, where: str, origin: str) -> Point:
    typed = {}
    for key, value in point.items():
        check_path(StudySpec, key, f"{where} of {origin}")
        convert = converter(StudySpec, key)
        typed[key] = _converted(convert, value, f"{where}.{key}", origin=origin)
    return typed


def _converted(convert: Callable[[Any], Any], value: Any, where: str, *, origin: str) -> Any:
    try:
        return convert(value)
    except ValueError as error:
        raise SpecError(f"{where}: {error} (in {origin})") from None


def _check_distinct(values: list[Any], where: str, origin: str) -> None:
    texts = [canonical_json(value) for value in values]
    twice = dict.fromkeys(text for text in texts if texts.count(text) > 1)
    if twice:
        raise SpecError(
            f"{where}: lists {', '.join(twice)} more than once; list each value once (in {origin})"
        )


def _check_range(
    domain: Range,
    convert: Callable[[Any], Any],
    where: str,
    *,
    origin: str,
) -> None:
    """Refuse a range of which the key can have no value; other points are excluded one by one."""
    problem = ""
    for probe in _probes(domain):
        try:
            convert(probe)
        except ValueError as error:
            problem = problem or str(error)
        else:
            return
    hint = ""
    if not isinstance(domain, Integer) and _takes(convert, round((domain.low + domain.high) / 2)):
        hint = "; it takes whole numbers: use kind: integer"
    raise SpecError(f"{where}: the key has no value of this range: {problem}{hint} (in {origin})")


def _takes(convert: Callable[[Any], Any], value: Any) -> bool:
    try:
        convert(value)
    except ValueError:
        return False
    return True


def _probes(domain: Range) -> Iterator[float]:
    """Some values of a range: of one without steps, none that is a whole number by chance."""
    if isinstance(domain, Integer):
        count = (domain.high - domain.low) // domain.step
        for index in range(min(count + 1, MOST_PROBES)):
            yield domain.low + domain.step * (count * index // max(1, min(count, MOST_PROBES - 1)))
        return
    values = values_of(domain)
    if values is not None:
        yield from values[:: max(1, len(values) // MOST_PROBES)]
        return
    for index in range(MOST_PROBES):
        share = (index + 2**-0.5) / MOST_PROBES
        yield domain.low + share * (domain.high - domain.low)


def _check_condition(space: Space, key: str, where: str, *, origin: str) -> None:
    condition = space[key].when
    if condition is None:
        return
    domain = space[condition.key]
    for index, value in enumerate(condition.among):
        if not contains(domain, value):
            raise SpecError(
                f"{where}.when.among.{index}: {canonical_json(value)} is no value of "
                f"{condition.key}, which has {describe_domain(domain)} (in {origin})"
            )


def _check_drift(sweep: SweepSpec, origin: str) -> None:
    """Refuse a drift of, or over, values that are no numbers: it would be a slope of names."""
    if sweep.answer.kind != "drift":
        return
    for side, key in (("key", sweep.answer.key), ("over", sweep.answer.over)):
        for space in sweep.spaces().values():
            values = (values_of(space[key]) if key in space else None) or []
            names = [value for value in values if not _is_number(value)]
            if names:
                raise SpecError(
                    f"answer.{side}: {key} has the value {canonical_json(names[0])}, and a drift "
                    f"is of numbers; ask for the best (kind: best) (in {origin})"
                )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_start(sweep: SweepSpec, origin: str) -> None:
    """Refuse start points that are not of the space: no search could draw them."""
    spaces = sweep.spaces()
    _check_distinct(list(sweep.start), "start", origin)
    for index, point in enumerate(sweep.start):
        where = f"start.{index}"
        for key in point:
            if not any(key in space for space in spaces.values()):
                raise SpecError(f"{where}: {key} is not a key of the space (in {origin})")
        for name, space in spaces.items():
            mine = {key: value for key, value in point.items() if key in space}
            for key, value in mine.items():
                if not contains(space[key], value):
                    arm = f" of arm {name}" if name else ""
                    raise SpecError(
                        f"{where}.{key}: {canonical_json(value)} is outside of the space{arm}, "
                        f"which has {describe_domain(space[key])} (in {origin})"
                    )
            missing = [key for key, domain in space.items() if key not in mine and not domain.when]
            if sweep.algorithm.kind == "grid" and mine and missing:
                raise SpecError(
                    f"{where}: has no {missing[0]}; a start point of a grid has every key of the "
                    f"space (in {origin})"
                )
