"""Items of a task and generations of a model as JSON lines, checked before anything is scored."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from cola.errors import SpecError, StorageError, first_of
from cola.evaluation.json_lines import numbered_objects

Id = int | str
_WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,999})")


def _as_id(value: object) -> object:
    """A whole number that a program wrote as 1.0 is an integer; true, null and lists are no ids."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{json.dumps(value)} is neither a whole number nor a text")
    return value


_ReadId = Annotated[Id, BeforeValidator(_as_id)]


def id_key(identity: Id) -> Id:
    """What two ids of the same item have in common: 1 and "1" are one."""
    if isinstance(identity, str) and _WHOLE_NUMBER.fullmatch(identity.strip()):
        return int(identity)
    return identity


class Item(BaseModel):
    """A question: `prompt` holds the few-shot prefix, `choices` the options in their order.

    `answers` are all that count as right where there are several; `answer` is the first of them.
    `stratum` is the part of the data set that it is of, such as a subject.
    Items of one `group` share a text, so that their errors are taken together.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: _ReadId
    prompt: str
    answer: str
    choices: list[str] | None = None
    answers: list[str] | None = None
    stratum: str | None = None
    group: _ReadId | None = None


class Generation(BaseModel):
    """The raw continuation of an item's prompt, as the model gave it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: _ReadId
    generation: str


Record = TypeVar("Record", Item, Generation)


def read_items(
    path: Path, needs_choices: bool, needs_answers: bool = False, *, option: str = "--items"
) -> list[Item]:
    """The items of a JSONL file, in its order.

    Args:
        option: what the caller calls the file, for messages.

    Raises:
        SpecError: naming file and line of what is malformed, twice there, or lacks a field.
    """
    items = []
    for number, item in _read(path, Item, option):
        where = f"{option} {path}, line {number}: item {item.id!r}"
        if needs_choices and not (item.choices and len(item.choices) > 1):
            raise SpecError(f"{where} needs at least two `choices`; add them")
        if needs_answers and not item.answers:
            raise SpecError(f"{where} needs `answers`, all that count as right; add them")
        items.append(item)
    return items


def write_items(path: Path, items: Sequence[Item], *, option: str = "--to") -> None:
    """Write items as the JSONL file that `read_items` reads, in a new folder if need be.

    Raises:
        StorageError: where the file cannot be written.
    """
    lines = [json.dumps(item.model_dump(exclude_none=True)) + "\n" for item in items]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{option} {path}: cannot be written ({error.strerror}); give another file"
        ) from None


def read_generations(path: Path, *, option: str = "--generations") -> dict[Id, str]:
    """Generations by the id of their item.

    Raises:
        SpecError: as `read_items`.
    """
    return {record.id: record.generation for _, record in _read(path, Generation, option)}


def matched_generations(
    items: Sequence[Item], generations: Mapping[Id, str], *, option: str = "--generations"
) -> dict[Id, str]:
    """The generations of these items, by the items' own ids; 1 and "1" are one id.

    Raises:
        SpecError: when no generation is of these items, or all are numbered one off.
    """
    by_key = {id_key(identity): text for identity, text in generations.items()}
    found = {item.id: by_key[id_key(item.id)] for item in items if id_key(item.id) in by_key}
    asked = {id_key(item.id) for item in items}
    if not found:
        raise SpecError(
            f"{option}: no id is one of the items'; is it another task's file? Its ids: "
            f"{_some(list(generations))}; the items': {_some([item.id for item in items])}"
        )
    for shift in (1, -1):
        if len(found) < len(by_key) and _shifted(asked, shift) == by_key.keys():
            raise SpecError(
                f"{option}: its ids are the items' {'plus' if shift > 0 else 'minus'} 1, so every "
                "generation would be scored as its neighbour's; number both from the same start"
            )
    return found


def _shifted(keys: set[Id], shift: int) -> set[Id]:
    return {key + shift if isinstance(key, int) else key for key in keys}


def _some(ids: Sequence[Id]) -> str:
    return first_of([repr(identity) for identity in ids]) or "none"


def _read(path: Path, kind: type[Record], option: str) -> list[tuple[int, Record]]:
    records: list[tuple[int, Record]] = []
    lines: dict[Id, int] = {}
    for number, values in numbered_objects(path, option):
        where = f"{option} {path}, line {number}"
        record = _parsed(values, kind, where)
        first = lines.setdefault(id_key(record.id), number)
        if first != number:
            raise SpecError(
                f"{where}: id {record.id!r} is there twice, first in line {first}; "
                "give every item one line"
            )
        records.append((number, record))
    if not records:
        raise SpecError(f"{option} {path}: holds no line; each is a JSON object")
    return records


def _parsed(values: Mapping[str, Any], kind: type[Record], where: str) -> Record:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        names = [part for part in first["loc"] if part not in ("int", "str")]
        key = ".".join(map(str, names)) or "the line"
        own = first["msg"].removeprefix("Value error, ")
        problem = own if own != first["msg"] else own[:1].lower() + own[1:]
        fields = ""
        if first["type"] == "missing":
            fields = f"; its fields: {', '.join(values) or 'none'}"
        elif own == first["msg"]:
            fields = f", found {_excerpt(first['input'])}"
        raise SpecError(f"{where}: {key}: {problem}{fields}") from None


def _excerpt(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}..."
