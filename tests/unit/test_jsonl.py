"""JSON lines that survive crashes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.jsonl import LineReader, LineWriter, read_lines

RECORDS = st.lists(st.dictionaries(st.text(), st.integers() | st.text()), min_size=1, max_size=5)


@given(records=RECORDS, cut=st.integers(0, 200))
def test_a_line_cut_off_by_a_crash_costs_itself_alone(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "log.jsonl"
    with LineWriter(path) as lines:
        for record in records:
            lines.write(record)
    content = path.read_bytes()
    kept = content[: len(content) - min(cut, len(content))]
    path.write_bytes(kept)
    whole = kept.count(b"\n")
    assert read_lines(path) == records[:whole]
    with LineWriter(path) as lines:
        lines.write({"after": "the crash"})
    found = read_lines(path)
    assert found[:whole] == records[:whole]
    assert found[-1] == {"after": "the crash"}
    # A line of which only the newline was lost is whole again, once that has been written.
    assert len(found) - 1 - whole <= 1


def test_a_damaged_line_in_the_middle_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": \n\xff\xfe\n[1]\n\n{"c": 3}\n')
    assert read_lines(path) == [{"a": 1}, {"c": 3}]


def test_a_reader_follows_a_growing_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    reader = LineReader(path)
    assert list(reader.new_lines()) == []
    path.write_text('{"a": 1}\n{"b"')
    assert [record for _, record in reader.new_lines()] == [{"a": 1}]
    with path.open("a") as file:
        file.write(': "\u2028"}\n')
    assert [record for _, record in reader.new_lines()] == [{"b": "\u2028"}]
    assert list(reader.new_lines()) == []


@pytest.mark.parametrize("kept", [0, 1, 9, 10, 25, 50])
def test_a_file_that_lost_its_end_is_read_again(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    reader = LineReader(path)
    path.write_text("".join(f'{{"a": {n}}}\n' for n in range(6)))  # 9 bytes a line
    assert len(list(reader.new_lines())) == 6
    path.write_bytes(path.read_bytes()[:kept])
    with LineWriter(path) as lines:
        for n in range(100, 108):  # longer than what was lost
            lines.write({"a": n})
    found = [record["a"] for _, record in reader.new_lines()]
    whole = kept // 9
    assert found == [*range(whole), *range(100, 108)]
    assert list(reader.new_lines()) == []


def test_writers_of_one_file_alternate_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first, second = LineWriter(path), LineWriter(path)
    for step in range(3):
        first.write({"writer": 1, "step": step})
        second.write(json.dumps({"writer": 2, "step": step}), sync=True)
    first.close()
    second.close()
    assert [line["writer"] for line in read_lines(path)] == [1, 2] * 3


def test_numbers_that_json_cannot_name_are_refused(tmp_path: Path) -> None:
    with LineWriter(tmp_path / "log.jsonl") as lines, pytest.raises(ValueError, match="JSON"):
        lines.write({"loss": float("nan")})
