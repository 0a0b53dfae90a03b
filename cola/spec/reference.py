"""The reference of a specification's keys as Markdown tables, from its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cola.spec.schema import referred, tag_of

Schema = dict[str, Any]

HEAD = ("| key | type | default | meaning |", "|---|---|---|---|")
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
ESCAPED = "\\|"  # a bar within a cell
SHORT = 60  # characters of a default that fits a table's cell


def reference(schema: Schema, level: int) -> str:
    """One table of the keys at the top and one for each key that holds a mapping.

    Headings begin at `level`. An alternative of a union has a table under a heading one level
    deeper. What occurs at several keys is written out at the first one.
    """
    return _Reference(schema.get("$defs", {})).written(schema, level)


@dataclass(frozen=True)
class _Row:
    """A key by its path, with the schema of its value."""

    path: str
    schema: Schema
    required: bool
    written_at: str | None = None  # where the keys of its value are, if not below it


@dataclass(frozen=True)
class _Table:
    """Rows under a heading."""

    heading: str
    rows: list[_Row]


@dataclass
class _Reference:
    definitions: dict[str, Any]
    first: dict[str, str] = field(default_factory=dict)  # definitions and unions: their first path

    def written(self, schema: Schema, level: int) -> str:
        """The whole reference."""
        top, sections = [], []
        for row in self._keys("", schema, ()):
            tables = self._tables(row)
            top.append(self._line(row, f"[`{row.path}`](#{row.path})" if tables else ""))
            sections += [
                (level + (number > 0), table.heading, [self._line(r) for r in table.rows])
                for number, table in enumerate(tables)
            ]
        blocks = ["\n".join([*HEAD, *top])]
        for depth, heading, lines in sections:
            blocks.append(f"{'#' * depth} {heading}")
            if lines:
                blocks.append("\n".join([*HEAD, *lines]))
        return "\n\n".join(blocks) + "\n"

    def _tables(self, row: _Row) -> list[_Table]:
        """The tables below a key: its nested keys, then one for each alternative of a union."""
        unions: list[_Table] = []
        rows = list(self._below(row.path, row.schema, unions))
        if not rows and not unions:
            return []
        return [_Table(f"`{row.path}`", rows), *unions]

    def _below(self, path: str, schema: Schema, unions: list[_Table]) -> Iterator[_Row]:
        """Rows of all keys within the value at `path`; tables of alternatives go to `unions`."""
        for where, name, part in self._parts(path, schema):
            if name in self.first:
                continue
            self.first[name] = where
            if "oneOf" in part:
                self._add_alternatives(where, part, unions)
            else:
                yield from self._nested(where, part, (), unions=unions)

    def _nested(
        self, path: str, schema: Schema, needed: tuple[str, ...], *, unions: list[_Table]
    ) -> Iterator[_Row]:
        for row in self._keys(path, schema, needed):
            yield row
            yield from self._below(row.path, row.schema, unions)

    def _add_alternatives(self, path: str, union: Schema, unions: list[_Table]) -> None:
        key = tag_of(union["oneOf"], self.definitions)
        for item in union["oneOf"]:
            model = referred(item, self.definitions)
            tag = model["properties"][key]["const"] if key else model.get("title", "")
            table = _Table(f"`{path}` with `{key}: {tag}`", [])
            unions.append(table)
            table.rows.extend(
                self._nested(path, model, tuple(item.get("required", ())), unions=unions)
            )

    def _keys(self, path: str, schema: Schema, needed: tuple[str, ...]) -> Iterator[_Row]:
        """A row for each key of an object."""
        required = {*schema.get("required", ()), *needed}
        for key, value in schema.get("properties", {}).items():
            where = f"{path}.{key}" if path else key
            parts = self._parts(where, value)
            elsewhere = [self.first[name] for _, name, _ in parts if name in self.first]
            yield _Row(where, value, key in required, next(iter(elsewhere), None))

    def _parts(self, path: str, schema: Schema) -> list[tuple[str, str, Schema]]:
        """Objects and unions within a value, through lists and mappings: path, name, schema."""
        if "$ref" in schema:
            return [(path, schema["$ref"], referred(schema, self.definitions))]
        if "oneOf" in schema:
            return [(path, " ".join(item["$ref"] for item in schema["oneOf"]), schema)]
        found = [part for item in schema.get("anyOf", ()) for part in self._parts(path, item)]
        if isinstance(schema.get("items"), dict):
            found += self._parts(f"{path}.N", schema["items"])
        if isinstance(schema.get("additionalProperties"), dict):
            found += self._parts(f"{path}.NAME", schema["additionalProperties"])
        return found

    def _line(self, row: _Row, shown: str = "") -> str:
        """A row of a table; `shown` in place of the path."""
        meaning = self._meaning(row.path, row.schema)
        if row.written_at is not None:
            as_of = "above" if row.written_at == row.path else f"of `{row.written_at}`"
            meaning += f" Keys: as {as_of}."
        default = "required" if row.required else self._default(row)
        cells = [shown or f"`{row.path}`", _or(self._types(row.schema)), default, meaning]
        return f"| {' | '.join(' '.join(cell.split()).replace('|', ESCAPED) for cell in cells)} |"

    def _meaning(self, path: str, schema: Schema) -> str:
        """Its description, or that of the object that it is."""
        inner = [part for where, _, part in self._parts(path, schema) if where == path]
        found = [item.get("description", "") for item in (schema, *inner)]
        return next(filter(None, found), "")

    def _default(self, row: _Row) -> str:
        """The default as YAML; nothing for an object, whose keys have theirs."""
        if "default" not in row.schema:
            return ""
        value = row.schema["default"]
        if isinstance(value, dict) and "$ref" in row.schema:
            return ""
        if isinstance(value, dict) and "oneOf" in row.schema:
            value = self._without_defaults(row.schema["oneOf"], value)
        text = _flow(value)
        return f"`{text}`" if len(text) <= SHORT else ""

    def _without_defaults(self, union: list[Schema], value: dict[str, Any]) -> dict[str, Any]:
        """A value of a union by its tag and what is not a default of that alternative."""
        key = tag_of(union, self.definitions)
        for item in union:
            keys = referred(item, self.definitions)["properties"]
            if key is not None and keys[key]["const"] == value.get(key):
                named = {k: v for k, v in value.items() if v != keys[k].get("default")}
                return {key: value[key]} | named
        return value

    def _types(self, schema: Schema) -> list[str]:
        """What values are valid: alternatives in words."""
        if "const" in schema:
            return [f"`{_flow(schema['const'])}`"]
        if "enum" in schema:
            return [f"`{_flow(value)}`" for value in schema["enum"]]
        if "anyOf" in schema:
            return [words for item in schema["anyOf"] for words in self._types(item)]
        if "oneOf" in schema:
            return [self._tagged(schema["oneOf"])]
        if "$ref" in schema:
            return self._types(referred(schema, self.definitions))
        kinds = schema.get("type", "any value")
        kind = kinds[0] if isinstance(kinds, list) else kinds
        if kind == "array":
            return [self._list(schema)]
        inner = schema.get("additionalProperties")
        if kind == "object":
            of = f" of NAME to {_or(self._types(inner))}" if isinstance(inner, dict) else ""
            return [f"mapping{of}"]
        bounds = [f"{sign} {schema[key]:.10g}" for key, sign in BOUNDS.items() if key in schema]
        return [" ".join([kind, ", ".join(bounds)]).strip()]

    def _list(self, schema: Schema) -> str:
        if "prefixItems" in schema:
            items = schema["prefixItems"]
            return f"list of {len(items)}: {_or(self._types(items[0]))}"
        least = schema.get("minItems", 0)
        some = f"list of at least {least}" if least > 1 else "list"
        return f"{some}: {_or(self._types(schema.get('items', {})))}"

    def _tagged(self, union: list[Schema]) -> str:
        key = tag_of(union, self.definitions)
        models = [referred(item, self.definitions) for item in union]
        tags = [f"`{model['properties'][key]['const']}`" for model in models if key]
        return f"mapping with `{key}` {_or(tags)}" if tags else "mapping"


def _or(words: list[str]) -> str:
    """a, b or c."""
    words = list(dict.fromkeys(words))
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(item)}' for key, item in value.items())}}}"
    return json.dumps(value)
