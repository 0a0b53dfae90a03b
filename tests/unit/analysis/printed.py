"""What commands print with `--json`, checked against the published schemas."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema


@cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    """Of a command's JSON."""
    schema = json.loads((files("analysis") / "schemas" / f"{kind}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def read(kind: str, text: str) -> dict[str, Any]:
    """The JSON of a command, which its schema allows."""
    values: dict[str, Any] = json.loads(text)
    validator(kind).validate(values)
    return values
