"""Frozen specifications: unknown keys are refused, content is hashed, errors name the path."""

from __future__ import annotations

import difflib
import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cola.errors import SpecError, one_line


class Spec(BaseModel):
    """Base of every specification: immutable, strict about keys, hashable by content."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical_json(self) -> str:
        """The specification as JSON with sorted keys: equal specifications give equal text."""
        return canonical_json(self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """The whole specification as YAML, which `parse` reads again."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def content_hash(self) -> str:
        """SHA-256 (hex) of `canonical_json()`."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    @classmethod
    def parse(cls, values: object, origin: str = "specification") -> Self:
        """Validate plain values.

        Raises:
            SpecError: naming every offending key by its path, with what would be valid.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [_describe(cls, item) for item in error.errors()]
            raise SpecError("; ".join(dict.fromkeys(lines)) + f" (in {origin})") from None


def canonical_json(values: object) -> str:
    """JSON with sorted keys and no insignificant white space."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        SpecError: when the file is missing, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: is not valid YAML ({one_line(error)})") from None
    if not isinstance(values, dict):
        raise SpecError(f"{path}: must hold a mapping of keys, found {type(values).__name__}")
    return values


def apply_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Apply `path.to.key=value` settings (value in YAML syntax; list items by index).

    `@FILE` stands for the settings in a YAML file that maps paths to values.

    Raises:
        SpecError: when a setting has no `=` or walks through something that is not a mapping.
    """
    result = json.loads(json.dumps(values))
    for override in overrides:
        if override.startswith("@"):
            result = with_values(result, load_yaml(Path(override[1:])))
            continue
        path, separator, text = override.partition("=")
        if not separator or not path.strip():
            raise SpecError(f"--set {override}: write it as path.to.key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise SpecError(f"--set {override}: the value is not valid YAML") from None
        _assign(result, path.strip().split("."), value, override=override)
    return result


def with_values(values: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the mapping with some keys, given by their paths, set to values.

    Raises:
        SpecError: when a path walks through something that is not a mapping.
    """
    result = json.loads(json.dumps(values))
    for path, value in settings.items():
        _assign(result, path.split("."), value, override=f"{path}={value}")
    return dict(result)


def check_path(model: type[BaseModel], path: str, origin: str) -> None:
    """Refuse a path that no specification of this type has.

    Raises:
        SpecError: naming the first unknown key, with what is near it.
    """
    annotations: list[Any] = [model]
    keys = path.split(".")
    if _resolves(annotations, keys):
        return
    for depth, key in enumerate(keys):
        following = _step(annotations, key)
        if following is None:
            known = sorted({name for m in _models(annotations) for name in m.model_fields})
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = "it holds a value, not keys"
            if known:
                hint = f"valid keys: {', '.join(known)}"
            if close:
                hint = f"did you mean {'.'.join([*keys[:depth], close[0]])}?"
            raise SpecError(f"{'.'.join(keys[: depth + 1])}: unknown key; {hint} (in {origin})")
        annotations = following


def _resolves(annotations: list[Any], keys: list[str]) -> bool:
    """Whether the path leads somewhere; names that a user gives to entries may have dots."""
    if not keys:
        return True
    named = any(get_origin(m) is dict for a in annotations for m in _members(a))
    # An entry that is named after a kind has no dots in its name.
    most = len(keys) - 1 if named and not _narrowed(annotations, keys[0]) else 1
    for count in range(1, max(most, 1) + 1):
        following = _step(annotations, ".".join(keys[:count]))
        if following is not None and _resolves(following, keys[count:]):
            return True
    return False


def _narrowed(annotations: list[Any], part: str) -> list[Any]:
    """Kinds of a mapping's values that an entry of this name is one of."""
    mappings = [m for a in annotations for m in _members(a) if get_origin(m) is dict]
    return [m for d in mappings for m in _models([get_args(d)[1]]) if _has_tag(m, part)]


def _parts_of(node: Any, path: list[str]) -> list[str]:
    """The path with the names of existing entries as one part each, dots and all."""
    parts: list[str] = []
    left = list(path)
    while left:
        count = 1
        if isinstance(node, dict):
            found = (n for n in range(len(left), 0, -1) if ".".join(left[:n]) in node)
            count = next(found, 1)
        part, left = ".".join(left[:count]), left[count:]
        parts.append(part)
        node = node.get(part) if isinstance(node, dict) else None
    return parts


def check_distinct(values: Sequence[object]) -> None:
    """Refuse a list in which a value occurs twice (for validators of fields).

    Raises:
        ValueError: naming the values that do.
    """
    twice = dict.fromkeys(value for value in values if values.count(value) > 1)
    if twice:
        named = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in twice)
        raise ValueError(f"lists {named} more than once; list each value once")


def _assign(node: Any, path: list[str], value: object, *, override: str) -> None:
    keys = _parts_of(node, path)
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        where = ".".join(keys[: depth + 1])
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise SpecError(
                    f"--set {override}: {where} is not an item of a list of {len(node)}"
                )
            if last:
                node[int(key)] = value
            else:
                node = node[int(key)]
        elif isinstance(node, dict):
            if last:
                node[key] = value
            else:
                if node.get(key) is None:
                    node[key] = {}
                node = node[key]
        else:
            raise SpecError(f"--set {override}: {'.'.join(keys[:depth])} holds a value, not keys")


def _describe(model: type[BaseModel], item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        parent = location[:-1]
        known = _keys_at(model, parent)
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        if close:
            hint = f"did you mean {'.'.join([*_plain(model, parent), close[0]])}?"
        elif known:
            hint = f"valid keys: {', '.join(sorted(known))}"
        else:
            hint = "remove it"
        return f"{'.'.join(_plain(model, location))}: unknown key; {hint}"
    path = ".".join(_plain(model, location)) or "specification"
    if item["type"] == "union_tag_not_found":
        key = item["ctx"]["discriminator"].strip("'")
        return (
            f"{path}: say which it is by {path}.{key}: {', '.join(_tags_at(model, location, key))}"
        )
    if item["type"] == "union_tag_invalid":
        key = item["ctx"]["discriminator"].strip("'")
        valid = item["ctx"]["expected_tags"].replace("'", "")
        return f"{path}.{key}: unknown {item['ctx']['tag']!r}; valid: {valid}"
    message = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{path}: {message}{shown}"


def _plain(model: type[BaseModel], location: list[str]) -> list[str]:
    """Drop the union tags that pydantic inserts into the location of an error."""
    plain: list[str] = []
    annotations: list[Any] = [model]
    for part in location:
        following = _step(annotations, part)
        if following is None:
            if not plain or not _is_tag(annotations, part):
                plain.append(part)
            continue
        plain.append(part)
        annotations = following
    return plain


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    annotations: list[Any] = [model]
    for part in location:
        following = _step(annotations, part)
        if following is None:
            annotations = [m for m in _models(annotations) if _has_tag(m, part)] or annotations
        else:
            annotations = following
    return sorted({key for found in _models(annotations) for key in found.model_fields})


def _tags_at(model: type[BaseModel], location: list[str], key: str) -> list[str]:
    """Values of the discriminating key that are valid there."""
    annotations: list[Any] = [model]
    for part in location:
        annotations = _step(annotations, part) or annotations
    fields = [
        found.model_fields[key] for found in _models(annotations) if key in found.model_fields
    ]
    return [str(tag) for field in fields for tag in get_args(field.annotation)]


def _step(annotations: list[Any], part: str) -> list[Any] | None:
    found: list[Any] = []
    for annotation in annotations:
        for member in _members(annotation):
            if isinstance(member, type) and issubclass(member, BaseModel):
                if part in member.model_fields:
                    found.append(member.model_fields[part].annotation)
            elif get_origin(member) in (list, tuple) and part.isdigit():
                found.append(get_args(member)[0])
            elif get_origin(member) is dict:
                # An entry that is named after a kind is of this kind.
                found += _narrowed([member], part) or [get_args(member)[1]]
    return found or None


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for arg in get_args(annotation) for member in _members(arg)]
    return [annotation]


def _models(annotations: list[Any]) -> list[type[BaseModel]]:
    members = [member for annotation in annotations for member in _members(annotation)]
    return [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]


def _has_tag(model: type[BaseModel], tag: str) -> bool:
    return any(
        tag in get_args(field.annotation)
        for field in model.model_fields.values()
        if get_origin(field.annotation) is not None
    )


def _is_tag(annotations: list[Any], part: str) -> bool:
    return any(_has_tag(model, part) for model in _models(annotations))
