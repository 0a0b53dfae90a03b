"""The JSON Schema of a study takes what the commands take, and every key says what it means."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import Discriminator, Field, PositiveInt, Tag

from cola.errors import SpecError
from cola.spec import Spec
from cola.spec.reference import reference
from cola.spec.schema import json_schema, or_list_of, referred
from cola.study import StudySpec
from orchestration.planning.catalog import shipped_studies
from sweeps.space.spec import SweepSpec

ROOT = Path(__file__).resolve().parents[3]
STUDY = Draft202012Validator(json_schema(StudySpec))
SMALLEST: dict[str, Any] = {
    "name": "tiny",
    "families": ["ar", "llada", "cola"],
    "ladder": [{"budget": 1e12, "core_parameters": 200_000}],
}


def keys_of(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key below a schema by the chain of keys that leads to it."""
    definitions, seen = schema["$defs"], set[int]()

    def walk(path: str, node: Any) -> Iterator[tuple[str, Any]]:
        node = referred(node, definitions)
        if id(node) in seen:
            return
        seen.add(id(node))
        for key, value in node.get("properties", {}).items():
            where = f"{path}.{key}".removeprefix(".")
            yield where, value
            yield from walk(where, value)
        for inner in (node.get("items"), node.get("additionalProperties")):
            if isinstance(inner, dict):
                yield from walk(path, inner)
        for part in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            yield from walk(path, part)

    yield from walk("", schema)


@pytest.mark.parametrize("model", [StudySpec, SweepSpec])
def test_every_key_says_what_it_means(model: type[Spec]) -> None:
    schema = json_schema(model)
    found = dict(keys_of(schema))
    assert len(found) > 50
    # pydantic leaves out a description that is the same as that of the object's own class.
    silent = [
        path
        for path, value in found.items()
        if not (value | referred(value, schema["$defs"])).get("description")
    ]
    assert silent == []


@pytest.mark.parametrize("model", [StudySpec, SweepSpec])
def test_a_schema_is_one_of_draft_2020_12_that_refuses_unknown_keys(model: type[Spec]) -> None:
    schema = json_schema(model)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)
    objects = [schema, *schema["$defs"].values()]
    assert [item["additionalProperties"] for item in objects if "properties" in item] == [
        False for item in objects if "properties" in item
    ]


@pytest.mark.parametrize("path", shipped_studies().values(), ids=lambda path: path.stem)
def test_every_shipped_study_is_valid(path: Path) -> None:
    assert list(STUDY.iter_errors(yaml.safe_load(path.read_text()))) == []


def test_the_studies_of_the_readme_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    studies = [found for block in blocks if "families" in (found := yaml.safe_load(block))]
    assert studies
    for study in studies:
        assert list(STUDY.iter_errors(study)) == []


CORPUS = {"source": "files", "paths": ["a"]}
UNIFORM = {"objective": {"stage2": {"timestep": {"kind": "uniform"}}}}
ISOFLOP = {"ladder": [], "design": {"budgets": [1e12, 2e12], "sizes": 5}}


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"families": {"ar": None, "cola": UNIFORM}}, True),
        ({"families": {"gpt": {}}}, False),
        ({"families": "ar"}, False),
        ({"laddder": []}, False),
        ({"training": {"optimizer": {"learning_rat": 1}}}, False),
        ({"ladder": [{"budget": "1e12", "core_parameters": "200_000"}]}, True),
        ({"ladder": [{"budget": "1e12 FLOPs", "core_parameters": 200_000}]}, False),
        ({"ladder": [{"budget": -1, "core_parameters": 200_000}]}, False),
        ({"seeds": [1.5]}, False),
        ({"name": "Bad Name"}, False),
        ({"data": {"corpus": CORPUS}}, True),
        ({"data": {"corpus": CORPUS | {"name": "x"}}}, False),
        ({"data": {"corpus": {"paths": ["a"]}}}, False),
        ({"data": {"corpus": {"source": "gutenberg"}}}, False),
        ({"data": {"tokenizer": {"vocab_size": 512}}}, False),
        (ISOFLOP, True),
        ({"ladder": [], "design": ISOFLOP["design"] | {"kind": "isoflop"}}, True),
        ({"ladder": [], "design": ISOFLOP["design"] | {"kind": "grid"}}, False),
        ({"ladder": [], "design": {"budgets": [1e12], "core_parameters": [10_000]}}, False),
        ({"evaluation": {"tasks": ["cloze"]}}, True),
        ({"evaluation": {"tasks": ["trivia"]}}, False),
        ({"training": {"optimizer": {"betas": [0.9]}}}, False),
        ({"retry_diverged": None, "training": {"ema_decay": 0.99}}, True),
        ({"resources": {"larger": [{"core_parameters": 1, "workers": 2}]}}, True),
        ({"resources": {"larger": [{"workers": 2}]}}, False),
    ],
)
def test_the_schema_takes_what_the_commands_take(change: dict[str, Any], valid: bool) -> None:
    values = copy.deepcopy(SMALLEST) | change
    assert STUDY.is_valid(values) == valid
    if valid:
        StudySpec.parse(values)
    else:
        with pytest.raises(SpecError):
            StudySpec.parse(values)


class Round(Spec):
    """A disc."""

    shape: Literal["round"] = Field(default="round", description="A disc.")
    radius: float = Field(gt=0, description="In metres | or so.")


class Square(Spec):
    """A square."""

    shape: Literal["square"] = Field(default="square", description="A square.")
    side: PositiveInt = Field(default=2, description="In metres.")


def shape_of(values: object) -> str:
    return str(values.get("shape", "square")) if isinstance(values, dict) else "square"


Tile = Annotated[
    Annotated[Round, Tag("round")] | Annotated[Square, Tag("square")], Discriminator(shape_of)
]


class Floor(Spec):
    """A floor."""

    tiles: list[Tile] = Field(default=[], description="Tiles.")
    spare: Tile | None = Field(default=None, description="Another.")
    notes: dict[str, str] = Field(
        default={}, description="Notes.", json_schema_extra=or_list_of({"type": "string"})
    )


FLOOR = """\
| key | type | default | meaning |
|---|---|---|---|
| [`tiles`](#tiles) | list: mapping with `shape` `round` or `square` | `[]` | Tiles. |
| `spare` | mapping with `shape` `round` or `square` or null | `null` | Another. \
Keys: as of `tiles.N`. |
| `notes` | mapping of NAME to string or list: string | `{}` | Notes. |

### `tiles`

#### `tiles.N` with `shape: round`

| key | type | default | meaning |
|---|---|---|---|
| `tiles.N.shape` | `round` | required | A disc. |
| `tiles.N.radius` | number > 0 | required | In metres \\| or so. |

#### `tiles.N` with `shape: square`

| key | type | default | meaning |
|---|---|---|---|
| `tiles.N.shape` | `square` | `square` | A square. |
| `tiles.N.side` | integer > 0 | `2` | In metres. |
"""


def test_a_reference_has_a_table_for_each_alternative_of_a_union() -> None:
    assert reference(json_schema(Floor), level=3) == FLOOR


def test_of_a_union_one_alternative_may_go_without_its_tag() -> None:
    floor = Draft202012Validator(json_schema(Floor))
    assert floor.is_valid({"tiles": [{"side": 3}, {"shape": "round", "radius": 1}]})
    assert not floor.is_valid({"tiles": [{"radius": 1}]})
