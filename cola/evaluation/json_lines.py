"""JSON lines as people have them: compressed or not, with a byte order mark, any line ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from cola.data.formats import open_text
from cola.errors import SpecError, one_line

# Formats that are recognised by their first bytes, to be named where they are refused.
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive; give the file in it",
    b"PAR1": "a Parquet file; write it as JSON lines",
}


def numbered_objects(path: Path, option: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with the number of its line from 1 on.

    Blank lines are passed over. The file may be compressed (gzip, bzip2, xz or zstd), whatever its
    name, begin with a byte order mark (UTF-8, UTF-16 or UTF-32; none: UTF-8) and end its lines with
    CR LF.

    Args:
        option: what the caller calls the file, for messages.

    Raises:
        SpecError: naming the file and, where one is to blame, its line.
    """
    where = f"{option} {path}"
    # Not splitlines(): JSON texts may hold other line separators.
    for number, line in enumerate(_text_of(path, where).split("\n"), start=1):
        if line.strip():
            yield number, _object_in(line, f"{where}, line {number}")


def _text_of(path: Path, where: str) -> str:
    with open_text(path, where) as handle:  # opened once: it may be a pipe
        head = cast(Any, handle).buffer.peek(4)[:4]
        if head in _OTHER_FORMATS:
            raise SpecError(f"{where}: is {_OTHER_FORMATS[head]}")
        return handle.read()


def _object_in(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise SpecError(
            f"{where}: not JSON ({error.msg}, column {error.colno}){_hint(line)}"
        ) from None
    except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
        raise SpecError(f"{where}: not JSON that can be read ({one_line(error)})") from None
    if not isinstance(value, dict):
        kind = "an array" if isinstance(value, list) else "a single value"
        raise SpecError(
            f"{where}: the line: input should be a JSON object, found {kind}; write one object a "
            "line"
        )
    if "\\ud" in line.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise SpecError(
                f"{where}: holds half of a surrogate pair (\\ud...), which is no character; write "
                "the text as UTF-8"
            ) from None
    return value


def _hint(line: str) -> str:
    """What probably is the matter with a line that is not JSON."""
    if "\0" in line:
        return "; holds NUL characters, as UTF-16 without a byte order mark does: save it as UTF-8"
    if line.lstrip()[:1] == "[" or line.strip() == "{":
        return "; write one object a line, not an array or an object over several lines"
    if line.rstrip().endswith("},"):
        return "; remove the comma behind the object: every line is an object of its own"
    if line.lstrip().startswith("{'"):
        return "; write texts in double quotation marks, as JSON has them"
    return "; write one JSON object a line"
