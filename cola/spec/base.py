"""Frozen specifications: unknown keys are refused, content is hashed, errors name the path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from cola.errors import SpecError, StorageError, one_line
from cola.spec.key_paths import has_tag, models, nearest_key, step
from cola.spec.typed_values import not_text
from cola.spec.yaml_text import dump_yaml, parse_yaml


class Spec(BaseModel):
    """Base of every specification: immutable, strict about keys, hashable by content."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical_json(self) -> str:
        """The specification as JSON with sorted keys: equal specifications give equal text."""
        return canonical_json(self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """The whole specification as YAML, which `parse` reads again."""
        return dump_yaml(self.model_dump(mode="json"))

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


class SparseSpec(Spec):
    """A specification that writes its `sparse_keys` only where they are not the defaults: a default
    gives the text, and so the hash, of a specification without the key."""

    sparse_keys: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for key in self.sparse_keys:
            if getattr(self, key) == type(self).model_fields[key].default:
                values.pop(key, None)
        return values


def canonical_json(values: object) -> str:
    """JSON with sorted keys and no insignificant white space."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values: numbers, texts, truth values, null, lists, mappings.

    Raises:
        SpecError: when the file is missing, is not YAML, has a key twice or a value that is not
            plain, or is not a mapping.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            f"{path}: cannot be read ({error.strerror}); check its name and mode"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: is not valid YAML ({one_line(error)})") from None
    if not isinstance(values, dict):
        raise SpecError(f"{path}: must hold a mapping of keys, found {type(values).__name__}")
    check_plain(values, origin=str(path))
    return values


def load_saved_yaml(
    path: Path, section: str, key: str, *, what: str, command: str
) -> dict[str, Any]:
    """Read a YAML file that a command wrote, in which mapping `section` has the `key`.

    Raises:
        StorageError: it is damaged: not the whole `what`, which `command` writes anew.
    """
    problem = f"it is not the whole {what}"
    try:
        values = load_yaml(path)
        if isinstance(values.get(section), dict) and key in values[section]:
            return values
    except SpecError as error:
        problem = str(error).removeprefix(f"{path}: ")
    raise StorageError(f"{path}: is damaged ({problem}); remove it, and {command} writes it anew")


def check_plain(value: object, *, origin: str, key: str = "") -> None:
    """Refuse values of YAML that have no counterpart in a specification, as dates.

    Raises:
        SpecError: naming the key.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            if not (name is None or isinstance(name, bool | int | float | str)):
                where = f"{key}.{name}" if key else str(name)
                raise SpecError(f"{where}: the key {not_text(name)} (in {origin})")
            check_plain(item, origin=origin, key=f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_plain(item, origin=origin, key=f"{key}.{index}")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise SpecError(f"{key}: {not_text(value)} (in {origin})")


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
            value = parse_yaml(text)
        except yaml.YAMLError:
            raise SpecError(f"--set {override}: the value is not valid YAML") from None
        check_plain(value, origin=f"--set {override}", key=path.strip())
        _assign(result, path.strip().split("."), value, override=f"--set {override}")
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
                raise SpecError(f"{override}: {where} is not an item of a list of {len(node)}")
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
            raise SpecError(f"{override}: {'.'.join(keys[:depth])} holds a value, not keys")


def _describe(model: type[BaseModel], item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        parent = location[:-1]
        known = _keys_at(model, parent)
        hint = nearest_key(_plain(model, parent), location[-1], known) or "remove it"
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
        following = step(annotations, part)
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
        following = step(annotations, part)
        if following is None:
            annotations = [m for m in models(annotations) if has_tag(m, part)] or annotations
        else:
            annotations = following
    return sorted({key for found in models(annotations) for key in found.model_fields})


def _tags_at(model: type[BaseModel], location: list[str], key: str) -> list[str]:
    """Values of the discriminating key that are valid there."""
    annotations: list[Any] = [model]
    for part in location:
        annotations = step(annotations, part) or annotations
    fields = [found.model_fields[key] for found in models(annotations) if key in found.model_fields]
    return [str(tag) for field in fields for tag in get_args(field.annotation)]


def _is_tag(annotations: list[Any], part: str) -> bool:
    return any(has_tag(model, part) for model in models(annotations))
