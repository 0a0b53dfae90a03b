"""Items and generations as files that people have: encodings, line ends, ids, and what is wrong."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.errors import SpecError
from cola.evaluation.items import (
    Item,
    id_key,
    matched_generations,
    read_generations,
    read_items,
)
from cola.evaluation.json_lines import numbered_objects

LINES = '{"id": 1, "generation": " lantern"}\n{"id": "b", "generation": "é"}\n'
WANTED = {1: " lantern", "b": "é"}


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-32"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\n\n \n").encode(),
        lambda text: text.strip().encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: gzip.compress(b"\xef\xbb\xbf" + text.encode()),
        lambda text: bz2.compress(text.encode()),
        lambda text: lzma.compress(text.encode()),
        lambda text: pa.compress(text.encode(), codec="zstd", asbytes=True),
        lambda text: text.replace('"id": 1', '"id": 1.0').encode(),
    ],
)
def test_every_form_of_a_file_reads_the_same(
    encode: Callable[[str], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "generations.jsonl"
    path.write_bytes(encode(LINES))
    assert read_generations(path) == WANTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 1, "generation": "a"}\n{oops', r"line 2: not JSON \(Expecting property name"),
        (b'\n{"id": 1}\n', r"line 2: generation: field required; its fields: id"),
        (b'{"generation": "a"}', r"line 1: id: field required; its fields: generation"),
        (b'{"id": 1.5, "generation": "a"}', r"line 1: id: 1\.5 is neither a whole number nor a"),
        (b'{"id": true, "generation": "a"}', r"line 1: id: true is neither"),
        (b'{"id": null, "generation": "a"}', r"line 1: id: null is neither"),
        (b'{"id": [1], "generation": "a"}', r"line 1: id: \[1\] is neither"),
        (b'{"id": 1, "generation": ["a"]}', r"line 1: generation: input should be a valid string"),
        (
            b'{"id": 1, "generation": "a"}\n\n{"id": "1", "generation": "a"}',
            r"line 3: id '1' is there twice, first in line 1",
        ),
        (b'[\n{"id": 1}\n]', r"line 1: not JSON .* one object a line, not an array"),
        (b'{\n"id": 1\n}', r"line 1: not JSON .* one object a line"),
        (b"7", r"line 1: the line: input should be a JSON object, found a single value"),
        (b"id,generation\n1,a\n", r"line 1: not JSON"),
        (b'{"id": 1, "generation": "\xe9"}', r"is not UTF-8 text \(byte 0xE9 in line 1\); convert"),
        ('{"id": 1}'.encode("utf-16-le"), r"line 1: not JSON .*NUL characters"),
        (b'{"id": 1, "generation": "\\ud800"}', r"line 1: holds half of a surrogate pair"),
        (b"[" * 100_000, r"line 1: not JSON that can be read"),
        (b'{"id": ' + b"9" * 5000 + b"}", r"line 1: not JSON that can be read"),
        (gzip.compress(LINES.encode() * 99)[:-9], r"cannot be read to its end as gzip"),
        (b"PK\x03\x04....", r"is a zip archive; give the file in it"),
        (b"PAR1....", r"is a Parquet file"),
        (b"", r"holds no line"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "g.jsonl"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=message) as caught:
        read_generations(path)
    assert str(caught.value).startswith(f"--generations {path}")
    assert "\n" not in str(caught.value)


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(LINES,))
    writer.start()
    assert read_generations(pipe) == WANTED
    writer.join()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"--items .*: cannot be read"):
        read_items(tmp_path, needs_choices=False)


def items_of(*ids: int | str) -> list[Item]:
    return [Item(id=identity, prompt="", answer="a") for identity in ids]


def test_a_number_and_its_text_are_one_id() -> None:
    assert matched_generations(items_of(1, "2", "c"), {"1": "x", 2: "y", "c": "z"}) == {
        1: "x",
        "2": "y",
        "c": "z",
    }
    assert matched_generations(items_of(1), {"01": "x", "1": "y", "1.0": "z"}) == {1: "y"}


def test_ids_that_do_not_meet_are_shown() -> None:
    with pytest.raises(SpecError, match=r"--against: no id is one of the items'.*'a'.*: 1, 2, 3"):
        matched_generations(items_of(1, 2, 3), {"a": "x"}, option="--against")
    more = matched_generations(items_of(1, 2), {1: "x", 9: "y"})
    assert more == {1: "x"}


@pytest.mark.parametrize("shift", [1, -1])
def test_ids_that_are_all_one_off_are_refused(shift: int) -> None:
    generations = {number + shift: "x" for number in range(5, 15)}
    with pytest.raises(SpecError, match="scored as its neighbour's"):
        matched_generations(items_of(*range(5, 15)), generations)


@given(st.integers())
def test_the_key_of_a_number_is_that_of_its_text(number: int) -> None:
    assert id_key(number) == id_key(str(number)) == number


@given(st.text())
def test_a_key_is_the_text_or_a_number_that_is_written_as_it(text: str) -> None:
    key = id_key(text)
    assert key == text or str(key) == text.strip() or (key == 0 and text.strip() == "-0")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.text("abc"), JSON_VALUES, max_size=3), max_size=5))
def test_what_is_written_is_read_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\r\n\n" for record in records))
    found = list(numbered_objects(path, "--x"))
    assert found == [(2 * place + 1, record) for place, record in enumerate(records)]
