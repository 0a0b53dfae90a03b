"""Values that are given apart from their specification: checked and converted as its key does."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from cola.spec.key_paths import types_at

NOT_FINITE = "must be a finite number; write null where it stands for none (no limit)"


def plain_value(value: Any) -> Any:
    """The value itself, if it is one that a specification can hold (for validators of fields).

    Raises:
        ValueError: it holds a number that is not finite, or what is neither a number, text, truth
            value, null, list nor mapping.
    """
    reason = _not_plain(value)
    if reason is not None:
        raise ValueError(reason)
    return value


def _not_plain(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return NOT_FINITE
    if value is None or isinstance(value, bool | int | float | str):
        return None
    if isinstance(value, list | tuple):
        return next(filter(None, map(_not_plain, value)), None)
    if isinstance(value, dict):
        strange = next((key for key in value if not isinstance(key, str)), None)
        if strange is not None:
            return f"{strange!r} is a key that is not text; put it in quotes"
        return next(filter(None, map(_not_plain, value.values())), None)
    return not_text(value)


def not_text(value: object) -> str:
    """Why a value that YAML has made of something is none of a specification's."""
    if isinstance(value, datetime.date | datetime.time):
        return f"{value} is read as a date; put it in quotes where text is meant"
    return f"a value of the type {type(value).__name__} is none of YAML's plain ones"


def converter(model: type[BaseModel], path: str) -> Callable[[Any], Any]:
    """A function that gives a value as the specification's key at this path holds it, as plain
    data: a number that is given as text becomes a number.

    The function raises a ValueError for a value that the key cannot have.
    """
    adapters = _adapters(model, path)

    def convert(value: Any) -> Any:
        plain_value(value)
        problems: dict[str, None] = {}
        for adapter in adapters:
            try:
                found = adapter.validate_python(value)
                plain = adapter.dump_python(found, mode="json", exclude_unset=True)
                _check_number(value, plain)
            except ValidationError as error:
                problems[_problem(error)] = None
            except ValueError as error:
                problems[str(error)] = None
            else:
                return plain
        raise ValueError(" or ".join(problems) + _shown(value))

    return convert


@lru_cache(maxsize=1000)
def _adapters(model: type[BaseModel], path: str) -> tuple[TypeAdapter[Any], ...]:
    return tuple(TypeAdapter(annotation) for annotation in types_at(model, path))


def _check_number(value: Any, plain: Any) -> None:
    """Refuse what a number or truth value would be made of without being one."""
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ValueError(NOT_FINITE)
    is_number = isinstance(plain, int | float) and not isinstance(plain, bool)
    if is_number and isinstance(value, bool):
        raise ValueError("must be a number, not a truth value")


def _problem(error: ValidationError) -> str:
    """The first reason, with the key within the value where it is a mapping or list."""
    item = error.errors()[0]
    where = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where and _is_key(where) else message


def _is_key(where: str) -> bool:
    """Whether a location is not only pydantic's name of a union's alternative."""
    return not any(mark in where for mark in "[( ")


def _shown(value: Any) -> str:
    return f" (got {value!r})" if isinstance(value, str | int | float | bool | None) else ""
