"""JSON Schema of specifications, for editors and for the reference in the documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

DIALECT = GenerateJsonSchema.schema_dialect  # draft 2020-12

# YAML 1.1 and 1.2 differ in what is a number: 1e12 is a text in the former, 1_000 in the latter.
# Both are read as numbers here, so the schema takes them as texts, too.
INTEGER_TEXT = r"^[-+]?[0-9][0-9_]*$"
NUMBER_TEXT = r"^[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$"

UNTAGGED = "x-untagged"  # within this module: which alternative needs no tag


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what `model` takes: keys that it does not know are refused."""
    schema = model.model_json_schema(schema_generator=_Generator)
    definitions = schema.get("$defs", {})
    for definition in definitions.values():
        definition.pop("title", None)  # the class' name
    _require_tags(schema, definitions)
    return {"$schema": DIALECT} | schema


def or_list_of(items: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """`json_schema_extra` of a field that a validator also takes as a bare list of such items."""

    def extend(schema: dict[str, Any]) -> None:
        kept = ("description", "default")
        usual = {key: schema.pop(key) for key in list(schema) if key not in kept}
        schema["anyOf"] = [usual, {"type": "array", "items": items, "minItems": 1}]

    return extend


def referred(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The definition that a `$ref` names; any other schema is returned as it is."""
    name: str | None = schema.get("$ref")
    if name is None:
        return schema
    found: dict[str, Any] = definitions[name.removeprefix("#/$defs/")]
    return found


def tag_of(alternatives: list[dict[str, Any]], definitions: dict[str, Any]) -> str | None:
    """The key that distinguishes the alternatives of a union: a constant in each of them."""
    constants = [
        {key for key, value in referred(item, definitions).get("properties", {}).items()
         if "const" in value}
        for item in alternatives
    ]  # fmt: skip
    return next(iter(sorted(set.intersection(*constants))), None)


class _Generator(GenerateJsonSchema):
    """pydantic's generator without titles that only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """No field has a title."""
        return False

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        """Keys stay in the order in which the specifications have them."""
        return value

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        """A whole number or a text of its digits."""
        return super().int_schema(schema) | {"type": ["integer", "string"], "pattern": INTEGER_TEXT}

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        """A number or a text of its digits."""
        return super().float_schema(schema) | {"type": ["number", "string"], "pattern": NUMBER_TEXT}

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """The union with the tag that is taken where none is given, for `_require_tags`."""
        choose = schema["discriminator"]
        default = choose({}) if callable(choose) else None
        found = super().tagged_union_schema(schema)
        return {"oneOf": found["oneOf"], UNTAGGED: default}


def _require_tags(node: Any, definitions: dict[str, Any]) -> None:
    """Make the tag a required key of every alternative that is not taken without one.

    A tag has a default in its model, so pydantic's schema lets several alternatives match where
    the tag is missing.
    """
    if isinstance(node, list):
        for item in node:
            _require_tags(item, definitions)
    if not isinstance(node, dict):
        return
    for value in node.values():
        _require_tags(value, definitions)
    if UNTAGGED not in node:
        return
    default = node.pop(UNTAGGED)
    key = tag_of(node["oneOf"], definitions)
    if key is None:
        return
    for item in node["oneOf"]:
        if referred(item, definitions)["properties"][key]["const"] != default:
            item["required"] = [key]
