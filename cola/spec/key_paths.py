"""Keys of specifications by their paths (`training.optimizer.learning_rate`): whether they exist,
and which types of values they take.

Types are annotations as `typing` and pydantic write them; functions take several where a union
leaves open which kind of mapping a key is in.
"""

from __future__ import annotations

import difflib
import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from cola.errors import SpecError


def check_path(model: type[BaseModel], path: str, origin: str) -> None:
    """Refuse a path that no specification of this type has.

    Raises:
        SpecError: naming the first unknown key, with what is near it.
    """
    if types_at(model, path):
        return
    annotations: list[Any] = [model]
    keys = path.split(".")
    for depth, key in enumerate(keys):
        following = step(annotations, key)
        if following is None:
            known = sorted({name for m in models(annotations) for name in m.model_fields})
            hint = nearest_key(keys[:depth], key, known) or "it holds a value, not keys"
            raise SpecError(f"{'.'.join(keys[: depth + 1])}: unknown key; {hint} (in {origin})")
        annotations = following


def nearest_key(parents: list[str], key: str, known: list[str]) -> str:
    """A clause on what an unknown key may have been meant as; empty where no key is known."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {'.'.join([*parents, close[0]])}?"
    return f"valid keys: {', '.join(known)}" if known else ""


def types_at(model: type[BaseModel], path: str) -> list[Any]:
    """Types of the values that the key at a path takes, with their constraints.

    Several where a union leaves open which mapping the key is in; empty for an unknown key.
    """
    return _types([model], path.split("."))


def _types(annotations: list[Any], keys: list[str]) -> list[Any]:
    """The types that the keys lead to; names that a user gives to entries may have dots."""
    if not keys:
        return annotations
    named = any(get_origin(m) is dict for a in annotations for m in members(a))
    # An entry that is named after a kind has no dots in its name.
    most = len(keys) - 1 if named and not _narrowed(annotations, keys[0]) else 1
    for count in range(1, max(most, 1) + 1):
        following = step(annotations, ".".join(keys[:count]))
        found = _types(following, keys[count:]) if following is not None else []
        if found:
            return found
    return []


def step(annotations: list[Any], part: str) -> list[Any] | None:
    """The types of one key (or index) of mappings and lists of these types; None if none has it."""
    found: list[Any] = []
    for annotation in annotations:
        for member in members(annotation):
            if isinstance(member, type) and issubclass(member, BaseModel):
                if part in member.model_fields:
                    field = member.model_fields[part]
                    found.append(Annotated[field.annotation, field])
            elif get_origin(member) in (list, tuple) and part.isdigit():
                found.append(get_args(member)[0])
            elif get_origin(member) is dict:
                # An entry that is named after a kind is of this kind.
                found += _narrowed([member], part) or [get_args(member)[1]]
    return found or None


def members(annotation: Any) -> list[Any]:
    """The alternatives of a union, without what is annotated to them; else the type itself."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for arg in get_args(annotation) for member in members(arg)]
    return [annotation]


def models(annotations: list[Any]) -> list[type[BaseModel]]:
    """The specifications among the alternatives."""
    found = [member for annotation in annotations for member in members(annotation)]
    return [m for m in found if isinstance(m, type) and issubclass(m, BaseModel)]


def has_tag(model: type[BaseModel], tag: str) -> bool:
    """Whether a key of the specification has this constant: its kind in a union."""
    return any(
        tag in get_args(field.annotation)
        for field in model.model_fields.values()
        if get_origin(field.annotation) is not None
    )


def _narrowed(annotations: list[Any], part: str) -> list[Any]:
    """Kinds of a mapping's values that an entry of this name is one of."""
    mappings = [m for a in annotations for m in members(a) if get_origin(m) is dict]
    return [m for d in mappings for m in models([get_args(d)[1]]) if has_tag(m, part)]
