"""Columns of a table: which rows count, labels as written, and errors that name their lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.tables.columns import Columns, ColumnTable, read_columns
from analysis.tables.numbers import MISSING
from analysis.tables.source import LINE_BREAK
from cola.errors import SpecError

SIZES = Columns(n="params", d="tokens")
ROWS = [(1e7 * 2**i, 2e8 * 3**i, 5.0 - 0.2 * i) for i in range(8)]
HEADER = "params,tokens,loss"
LINES = [HEADER, *(f"{n:.0f},{d:.0f},{loss:.2f}" for n, d, loss in ROWS)]


def read(path: Path, lines: list[str], columns: Columns = SIZES) -> ColumnTable:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_columns(path, columns)


def refused(path: Path, lines: list[str], columns: Columns = SIZES) -> str:
    with pytest.raises(SpecError) as caught:
        read(path, lines, columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_column(name: str, cells: list[str]) -> list[str]:
    return [f"{line},{cell}" for line, cell in zip(LINES, [name, *cells], strict=True)]


def left_out(table: ColumnTable) -> dict[str, tuple[int, ...]]:
    return {each.reason: each.lines for each in table.counts.left_out}


def test_labels_are_text_as_written(tmp_path: Path) -> None:
    labels = ["None", "NA", "nan", "1e3", "1000", "007", "7", "true"]
    for option in ("group", "run", "budget"):
        columns = Columns(n="params", d="tokens", **{option: "g"})
        found = read(tmp_path / "a.csv", with_column("g", labels), columns)
        assert found.rows[option].tolist() == labels
        assert found.counts.used == len(labels)


@pytest.mark.parametrize("option", ["group", "run", "budget"])
def test_a_blank_label_is_an_error_with_its_lines(tmp_path: Path, option: str) -> None:
    lines = with_column("g", ["a", "", "b", " ", "a", "a", "", "b"])
    message = refused(tmp_path / "a.csv", lines, Columns(n="params", d="tokens", **{option: "g"}))
    assert f"lines 3, 5, 8: column 'g' (for --{option}) is blank" in message


@pytest.mark.parametrize("cell", sorted(MISSING))
def test_a_row_without_a_needed_number_is_left_out_with_a_note(tmp_path: Path, cell: str) -> None:
    lines = [*LINES[:3], f"4e7,{cell},4.6", *LINES[4:]]
    found = read(tmp_path / "a.csv", lines)
    assert found.rows["line"].tolist() == [2, 3, 5, 6, 7, 8, 9]
    assert left_out(found) == {"column 'tokens' holds no number": (4,)}
    assert "1 row is left out: column 'tokens' holds no number (line 4)" in found.notes
    assert (found.counts.in_file, found.counts.used) == (8, 7)


def test_gaps_in_several_columns_and_blank_rows_each_have_their_lines(tmp_path: Path) -> None:
    lines = [*LINES[:2], ",,", ",4e8,4.8", "4e7,1.8e9,", ",,,,", *LINES[5:]]
    found = read(tmp_path / "a.csv", lines)
    assert left_out(found) == {
        "all cells are empty": (3, 6),
        "column 'loss' holds no number": (5,),
        "column 'params' holds no number": (4,),
    }
    assert found.counts.as_json()["used"] == len(found.rows) == 5


def test_a_column_or_a_table_without_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert "column 'loss' (for --loss) is empty in all rows (lines 2-3)" in refused(
        path, [HEADER, "1e7,2e8,", "2e7,4e8,"]
    )
    assert "no row has a number in all of 'loss', 'params', 'tokens'" in refused(
        path, [HEADER, "1e7,2e8,", "2e7,,4.2", ",4e8,4.2"]
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("20M,2e8,4.5", "line 5, column 'params': '20M' has a unit; write 20e6"),
        ("2e7,0,4.5", "line 5, column 'tokens': '0' is not positive"),
        ("2e7,2e8,-4.5", "line 5, column 'loss': '-4.5' is not positive"),
        ("2e7,inf,4.5", "line 5, column 'tokens': 'inf' is not finite"),
        ('2e7,2e8,"4,5"', "line 5, column 'loss': '4,5' is not a number; write decimals"),
        ("2e7,2e8,oom", "line 5, column 'loss': 'oom' is not a number"),
    ],
)
def test_a_cell_that_cannot_be_right_is_refused_with_line_and_column(
    tmp_path: Path, row: str, reason: str
) -> None:
    # A blank line and a comment above: lines are the file's.
    lines = [LINES[0], "", "# note", LINES[1], row, *LINES[3:]]
    assert reason in refused(tmp_path / "a.csv", lines)
    assert "(also line 6)" in refused(tmp_path / "a.csv", [*lines[:5], row, *LINES[4:]])


def test_duplicates_are_rows_equal_in_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    seeds = [f"{LINES[0]},seed", *(f"{LINES[1]},{seed}" for seed in (1, 2, 2, 3))]
    found = read(path, seeds)
    assert found.rows["line"].tolist() == [2, 3, 5]
    assert left_out(found) == {"equal in all columns to another row": (4,)}
    assert any("1 row is an exact duplicate of others" in note for note in found.notes)
    unseeded = read(path, [*LINES[:2], LINES[1], *LINES[2:]])
    assert unseeded.counts.used == 8


def test_accuracies_may_have_gaps_that_are_counted(tmp_path: Path) -> None:
    cells = ["0.3", "", "0.4", "NaN", "0.5", "0.55", "", "1"]
    columns = Columns(n="params", d="tokens", accuracy="acc")
    found = read(tmp_path / "a.csv", with_column("acc", cells), columns)
    assert np.isnan(found.rows["accuracy"]).sum() == 3
    assert found.counts.used == 8
    (note,) = found.notes
    assert "5 rows are used" in note
    assert "empty in 3 others (lines 3, 5, 8)" in note


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("29.1%", "'29.1%' is a percentage; write the fraction 0.291"),
        ("29.1", "'29.1' is above 1: accuracies are fractions; write 0.291"),
        ("True", "'True' is not a number"),
        ("-0.1", "'-0.1' is no accuracy"),
        ("150", "'150' is no accuracy"),
    ],
)
def test_accuracies_are_fractions(tmp_path: Path, cell: str, reason: str) -> None:
    columns = Columns(n="params", d="tokens", accuracy="acc")
    message = refused(tmp_path / "a.csv", with_column("acc", ["0.2", *[cell] * 7]), columns)
    assert f"line 3, column 'acc': {reason}" in message
    assert message.endswith("(also lines 4-9)")


def test_accuracies_that_are_all_empty_are_refused(tmp_path: Path) -> None:
    columns = Columns(n="params", d="tokens", accuracy="acc")
    path = tmp_path / "a.csv"
    assert "is empty in all rows (lines 2-9)" in refused(
        path, with_column("acc", [""] * 8), columns
    )
    lines = [f"{HEADER},acc", "1e7,2e8,4.5,", ",4e8,4.2,0.5"]
    assert "no row that counts has an accuracy" in refused(path, lines, columns)


def test_columns_are_found_once_by_their_names(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.csv", LINES[1:]
    for header, reason in {
        "params,tokens,Loss": "has no column 'loss' (for --loss); did you mean 'Loss'",
        "params,token,loss": "has no column 'tokens' (for --d); did you mean 'token'",
        "params tokens loss": "its columns are separated by spaces",
    }.items():
        assert reason in refused(path, [header, *rows])
    assert "names 2 columns 'params' (for --n)" in refused(
        path, [f"{HEADER},params", *(f"{row},1" for row in rows)]
    )
    assert "add a line with the columns' names" in refused(path, rows)
    assert "line 3 has it: remove the lines above it" in refused(path, ["My runs", "", *LINES])
    assert "has no column ''" in refused(path, LINES, Columns(n="", d="tokens"))
    assert "given for both --n and --d" in refused(path, LINES, Columns(n="params", d="params"))
    # Names that no option asks for may be blank or repeated, as an index written by pandas is.
    other = [f",{HEADER},x,x", *(f"{i},{row},1,2" for i, row in enumerate(rows))]
    assert read(path, other).counts.used == 8


def test_a_table_without_rows_says_so_whatever_columns_are_asked_for(tmp_path: Path) -> None:
    for columns in (SIZES, Columns(compute="c"), Columns(group="g", budget="b", accuracy="a")):
        assert "holds no rows" in refused(tmp_path / "a.csv", ["Name,params,tokens,loss"], columns)
        assert "holds no rows" in refused(tmp_path / "a.csv", [""], columns)


CELLS = st.one_of(
    st.floats(1e-3, 1e12).map(repr),
    st.sampled_from([*sorted(MISSING), "1,5", '"1,5"', "1.5B", "-3", "inf", "#1", '"', '"7"', ";"]),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=6),
)


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, set[int]]:
    """A good table with one kind of damage, and the lines (from 1) that the damage may touch."""
    lines = list(LINES)
    kind = draw(st.sampled_from(["cell", "drop", "insert", "cut", "text", "delimiter", "swap"]))
    at = draw(st.integers(1, len(lines) - 1))
    fields = lines[at].split(",")
    place = draw(st.integers(0, len(fields) - 1))
    if kind == "cell":
        fields[place] = draw(CELLS)
    elif kind == "drop":
        del fields[place]
    elif kind == "insert":
        fields.insert(place, draw(CELLS))
    elif kind == "swap":
        lines[at] = lines[at].replace(",", draw(st.sampled_from(";\t|")))
        return "\n".join(lines), {at + 1}
    lines[at] = ",".join(fields)
    if kind == "cut":
        end = draw(st.integers(0, len(lines[at])))
        return "\n".join([*lines[:at], lines[at][:end]]), set(range(at + 1, len(lines) + 1))
    if kind == "text":
        lines[at] = draw(st.text(st.characters(exclude_categories=("Cs",)), max_size=20))
    text = "\n".join(lines)
    if kind == "delimiter":
        return text.replace(",", draw(st.sampled_from([";", "\t", "|", ", ", " ,"]))), set()
    return text, set(range(at + 1, at + 2 + len(LINE_BREAK.findall(lines[at]))))


@settings(max_examples=250)
@given(damage=damages())
def test_a_damaged_table_gives_right_values_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, damage: tuple[str, set[int]]
) -> None:
    text, touched = damage
    path = tmp_path_factory.mktemp("table") / "a.csv"
    path.write_bytes(text.encode())
    try:
        found = read_columns(path, SIZES)
    except SpecError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        named = any(f"line{s} {line}" in message for s in ("", "s") for line in touched)
        assert named or "holds no rows" in message
        return
    given_rows = [tuple(row) for row in found.rows[["parameters", "tokens", "loss"]].to_numpy()]
    kept = [(float(f"{n:.0f}"), float(f"{d:.0f}"), float(f"{loss:.2f}")) for n, d, loss in ROWS]
    untouched = [row for line, row in enumerate(kept, 2) if line not in touched]
    assert [row for row in given_rows if row in untouched] == untouched
    assert len(given_rows) <= len(kept)
    assert found.counts.used == len(found.rows)
