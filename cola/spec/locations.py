"""Paths in specifications: which fields are paths, and how they become absolute.

Paths of a file or a command line are relative to the working directory of the command that reads
it. They become absolute there, once (`located`): processes that a specification is sent to have
other working directories, so what is sent holds absolute paths only (`Absolute`, `AbsolutePath`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from cola.errors import SpecError

S = TypeVar("S", bound=BaseModel)
NOWHERE = Path("/nowhere")
SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:)(.+)", re.DOTALL)
FILE_REFERENCE = re.compile(r"(file:)(?!/)(.+)", re.DOTALL)


@dataclass(frozen=True)
class Location:
    """Marks a field of text as a path, or as what may hold one.

    `absolute(text, base)` is the text with a path relative to the folder `base` made absolute.
    `is_file` tells paths of files and folders from addresses that hold one.
    """

    absolute: Callable[[str, Path], str]
    is_file: Callable[[str], bool]


def _absolute_path(text: str, base: Path) -> str:
    if not text.strip():
        raise ValueError("is an empty path; name one (. is the working directory)")
    try:
        return str(base / Path(text).expanduser())
    except RuntimeError:
        raise ValueError(
            "names the home folder of a user that this machine does not know; write the path out"
        ) from None


def _absolute_storage(text: str, base: Path) -> str:
    return text if "://" in text else _absolute_path(text.removeprefix("file:"), base)


def _absolute_store(text: str, base: Path) -> str:
    match = SQLITE.fullmatch(text) or FILE_REFERENCE.fullmatch(text)
    return text if match is None else f"{match[1]}{base / match[2]}"


def _absolute_name(text: str, base: Path) -> str:
    """A name of the hub, unless there is such a folder: libraries then take the folder."""
    folder = base / text
    return str(folder) if folder.is_dir() else text


LocalPath = Annotated[str, Location(_absolute_path, lambda text: True)]
StorageAddress = Annotated[str, Location(_absolute_storage, lambda text: "://" not in text)]
StoreAddress = Annotated[str, Location(_absolute_store, lambda text: False)]
NameOrFolder = Annotated[str, Location(_absolute_name, lambda text: False)]


def located(spec: S, base: Path | None = None) -> S:
    """The specification with absolute paths; relative ones are below `base`, which is the working
    directory where it is not given.

    Raises:
        SpecError: a path names the home folder of an unknown user.
    """
    folder = Path.cwd() if base is None else base

    def absolute(key: str, text: str, location: Location) -> str:
        try:
            return location.absolute(text, folder)
        except ValueError as error:
            raise SpecError(f"{key}={text}: {error}") from None

    return _replaced(spec, absolute, "")


def with_paths(spec: S, places: Mapping[str, str]) -> S:
    """The specification with other paths, by the keys that `file_paths` has for them."""
    return _replaced(spec, lambda key, text, location: places.get(key, text), "")


def path_fields(spec: BaseModel) -> dict[str, tuple[str, Location]]:
    """What may hold a path, by key: its text, and what it is."""
    found: dict[str, tuple[str, Location]] = {}

    def note(key: str, text: str, location: Location) -> str:
        found[key] = (text, location)
        return text

    _replaced(spec, note, "")
    return found


def file_paths(spec: BaseModel) -> dict[str, str]:
    """The files and folders of a specification, by key."""
    fields = path_fields(spec).items()
    return {key: text for key, (text, location) in fields if location.is_file(text)}


def relative_paths(spec: BaseModel, base: Path = NOWHERE) -> dict[str, str]:
    """The texts that hold a relative path, by key; `base` as of `located`."""
    fields = path_fields(spec).items()
    return {key: text for key, (text, place) in fields if not _is_absolute(text, place, base)}


def _is_absolute(text: str, location: Location, base: Path) -> bool:
    try:
        return Path(text).is_absolute() or location.absolute(text, base) == text
    except ValueError:
        return False


def _replaced(
    value: Any, change: Callable[[str, str, Location], str], key: str, *, mark: Any = None
) -> Any:
    """The value with the marked texts in it changed; `mark` is the annotation of the value."""
    if isinstance(value, BaseModel):
        changed = {}
        for name, field in type(value).model_fields.items():
            old = getattr(value, name)
            new = _replaced(old, change, f"{key}.{name}".lstrip("."), mark=field)
            if new is not old:
                changed[name] = new
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, list | tuple):
        items = [
            _replaced(item, change, f"{key}.{index}", mark=mark) for index, item in enumerate(value)
        ]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else type(value)(items)
    if isinstance(value, dict):
        entries = {
            name: _replaced(item, change, f"{key}.{name}", mark=mark)
            for name, item in value.items()
        }
        return value if all(entries[name] is value[name] for name in value) else entries
    if isinstance(value, str) and mark is not None:
        location = next(_locations(mark), None)
        if location is not None:
            new = change(key, value, location)
            return value if new == value else new
    return value


def _locations(annotation: Any) -> Iterator[Location]:
    """The marks in an annotation, at any depth."""
    if isinstance(annotation, FieldInfo):
        yield from (mark for mark in annotation.metadata if isinstance(mark, Location))
        annotation = annotation.annotation
    for part in get_args(annotation):
        if isinstance(part, Location):
            yield part
        else:
            yield from _locations(part)


def _absolute_only(text: str) -> str:
    if not Path(text).is_absolute():
        raise ValueError("must be an absolute path, as the process that gets it has another folder")
    return text


def _has_absolute_paths(spec: S) -> S:
    for key, text in relative_paths(spec).items():
        raise ValueError(
            f"{key}={text} must be absolute, as the process that gets it has another folder"
        )
    return spec


AbsolutePath = Annotated[str, AfterValidator(_absolute_only)]
Absolute = AfterValidator(_has_absolute_paths)  # of a specification that is sent to a process
