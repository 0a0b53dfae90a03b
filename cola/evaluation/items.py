"""Items of a task and generations of a model as JSON lines, checked before anything is scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cola.errors import SpecError, StorageError

Id = int | str


class Item(BaseModel):
    """A question: `prompt` holds the few-shot prefix, `choices` the options in their order.

    `answers` are all that count as right where there are several; `answer` is the first of them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Id
    prompt: str
    answer: str
    choices: list[str] | None = None
    answers: list[str] | None = None


class Generation(BaseModel):
    """The raw continuation of an item's prompt, as the model gave it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Id
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
    items = _read(path, Item, option)
    for item in items:
        if needs_choices and not (item.choices and len(item.choices) > 1):
            raise SpecError(f"{option} {path}: item {item.id!r} needs at least two `choices`")
        if needs_answers and not item.answers:
            raise SpecError(
                f"{option} {path}: item {item.id!r} needs `answers`, all that count as right"
            )
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
    records = _read(path, Generation, option)
    return {record.id: record.generation for record in records}


def _read(path: Path, kind: type[Record], option: str) -> list[Record]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{option} {path}: cannot be read ({error}); give another file") from None
    records: list[Record] = []
    seen: set[Id] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parsed(line, kind, f"{option} {path}, line {number}")
        if record.id in seen:
            raise SpecError(f"{option} {path}, line {number}: id {record.id!r} is there twice")
        seen.add(record.id)
        records.append(record)
    if not records:
        raise SpecError(f"{option} {path}: holds no line; each is a JSON object")
    return records


def _parsed(line: str, kind: type[Record], where: str) -> Record:
    try:
        return kind.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise SpecError(f"{where}: not JSON ({error.msg})") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the line"
        raise SpecError(f"{where}: {key}: {first['msg'].lower()}") from None
