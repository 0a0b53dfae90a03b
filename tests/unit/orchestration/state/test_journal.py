"""The journal: append-only lines that survive crashes and read back without repeats."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.errors import StorageError
from orchestration.state.journal import JournalReader, JournalWriter


def steps_of(path: Path) -> list[int]:
    return [line.step for line in JournalReader(path).new_lines()]


def test_reads_what_was_written_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    writer, reader = JournalWriter(path), JournalReader(path)
    writer.write("train", 1, 10.0, values={"train/loss": 2.5})
    first = list(reader.new_lines())
    writer.write("evaluation", 1, 11.0, values={"val": 3.0})
    second = list(reader.new_lines())
    assert [(line.number, line.kind, line.values) for line in first + second] == [
        (1, "train", {"train/loss": 2.5}),
        (2, "evaluation", {"val": 3.0}),
    ]
    assert list(reader.new_lines()) == []


def test_repeated_steps_after_a_restart_are_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for steps in ([1, 2, 3], [2, 3, 4]):
        writer = JournalWriter(path)
        for step in steps:
            writer.write("train", step, 0.0, values={"train/loss": float(step)})
        writer.close()
    assert steps_of(path) == [1, 2, 3, 4]


def test_a_line_that_a_crash_cut_off_never_counted(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    writer = JournalWriter(path)
    writer.write("train", 1, 0.0, values={})
    writer.close()
    with path.open("ab") as file:
        file.write(b'{"kind": "train", "step": 2, "ti')
    assert steps_of(path) == [1]
    JournalWriter(path).write("train", 2, 0.0, values={})
    assert steps_of(path) == [1, 2]


def test_numbers_that_are_not_finite_stay_readable(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    JournalWriter(path).write("train", 1, 0.0, values={"a": math.nan, "b": math.inf, "c": 1.0})
    (line,) = JournalReader(path).new_lines()
    assert line.values == {"a": "nan", "b": "inf", "c": 1.0}


@given(st.lists(st.integers(min_value=0, max_value=60), min_size=1, max_size=6))
def test_any_split_of_the_bytes_gives_the_same_lines(cuts: list[int]) -> None:
    """A reader that polls while the file grows sees what a reader at the end sees."""
    with tempfile.TemporaryDirectory() as folder:
        whole, growing = Path(folder) / "whole", Path(folder) / "growing"
        writer = JournalWriter(whole)
        for step in range(5):
            writer.write("train", step, 0.0, values={"train/loss": step / 7})
        writer.close()
        data, reader, seen, position = whole.read_bytes(), JournalReader(growing), [], 0
        growing.touch()
        for cut in [*cuts, len(data)]:
            with growing.open("ab") as file:
                file.write(data[position : position + cut])
            position += cut
            seen += list(reader.new_lines())
        assert seen == list(JournalReader(whole).new_lines())


def test_lines_that_are_no_records_are_counted_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    good = {"kind": "train", "step": 1, "time": 2.0, "values": {"loss": 3.0}}
    bad: list[object] = [
        {"kind": "train"},
        good | {"step": "1"},
        good | {"step": True},
        good | {"time": None},
        good | {"values": [1]},
        good | {"kind": "later"},
        [good],
        7,
    ]
    lines = [json.dumps(line) for line in [*bad, good]] + ['{"kind": "train", "st', "\x00garbage"]
    path.write_text("\n".join(lines) + "\n")
    reader = JournalReader(path)
    assert [line.step for line in reader.new_lines()] == [1]
    assert reader.unreadable == len(bad) + 2


def test_a_journal_that_lost_its_end_is_read_again_without_repeats(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = [f'{{"kind": "train", "step": {step}, "time": 0, "values": {{}}}}' for step in range(4)]
    path.write_text("\n".join([lines[0], "{cut", '{"no": "record"}', *lines[1:3]]) + "\n")
    reader = JournalReader(path)
    assert [line.step for line in reader.new_lines()] == [0, 1, 2]
    assert reader.unreadable == 2
    path.write_text("\n".join([lines[0], "{cut", '{"no": "record"}', lines[3]]) + "\n")
    assert [(line.step, line.number) for line in reader.new_lines()] == [(3, 4)]
    assert reader.unreadable == 2, "a line that is read again is counted once"


def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(StorageError, match="move it away") as caught:
        list(JournalReader(tmp_path / "journal.jsonl").new_lines())
    assert str(caught.value).startswith(f"{tmp_path}/journal.jsonl: ")
