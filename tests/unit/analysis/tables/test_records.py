"""Records of a table and the lines that they begin on, as people write tables."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.tables.records import Records, lines_text, read_records
from cola.errors import SpecError

WANTED = ("params", "loss")
ROWS = [("a", "1e7", "4.5"), ("b", "2e7", "4.2"), ("c", "4e7", "4.0")]
GOOD = "run,params,loss\na,1e7,4.5\nb,2e7,4.2\nc,4e7,4.0\n"


def records(tmp_path: Path, text: str) -> Records:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    return read_records(path, WANTED)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(SpecError) as caught:
        records(tmp_path, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (GOOD, [2, 3, 4]),
        (GOOD.replace("\n", "\r\n"), [2, 3, 4]),
        (GOOD.replace("\n", "\r"), [2, 3, 4]),
        (GOOD.replace(",", ";"), [2, 3, 4]),
        (GOOD.replace(",", "\t"), [2, 3, 4]),
        (GOOD.replace(",", "|"), [2, 3, 4]),
        (GOOD.replace(",", ", "), [2, 3, 4]),
        ("sep=;\n" + GOOD.replace(",", ";"), [3, 4, 5]),
        ("\n# of May, June\n" + GOOD + "# end\n\n", [4, 5, 6]),
        ("# " + GOOD, [2, 3, 4]),
        (GOOD.replace("\nb", "\n\n   \n# a note\nb"), [2, 6, 7]),
        ('"run","params","loss"\n"a","1e7","4.5"\n"b","2e7","4.2"\n"c","4e7","4.0"', [2, 3, 4]),
    ],
)
def test_the_same_table_written_otherwise_has_the_same_records(
    tmp_path: Path, text: str, lines: list[int]
) -> None:
    found = records(tmp_path, text)
    assert [row.fields for row in found.rows] == ROWS
    assert [row.line for row in found.rows] == lines


def test_skipped_comments_are_listed(tmp_path: Path) -> None:
    assert records(tmp_path, GOOD + "# end\n").comments == (5,)


def test_a_field_may_span_lines_and_the_next_record_knows_its_line(tmp_path: Path) -> None:
    found = records(tmp_path, 'run,params,loss\n"two\nlines, one label",1e7,4.5\nb,2e7,4.2\n')
    assert [row.line for row in found.rows] == [2, 4]
    assert found.rows[0].fields[0] == "two\nlines, one label"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD.replace("2e7,4.2", "2e7,4,2"), "line 3 has 4 fields, the header 3; write decimals"),
        (GOOD.replace("2e7,4.2", "2e7"), "line 3 has 2 fields, the header 3; the line is cut off"),
        (GOOD.replace("4.5\n", "4.5,\n"), "line 2 has 4 fields, the header 3; a separator follows"),
        ("\n\n" + GOOD.replace(".", ","), "line 4 has 4 fields, the header 3; 3 lines differ"),
        (GOOD.replace("b,2e7,4.2", "b;2e7;4.2"), "separated by semicolons"),
        (GOOD.replace("b,", '"b,'), "line 3 cannot be read: a quotation mark is not closed"),
        (GOOD.replace("\nb,", '\n"b"x,'), "line 3 cannot be read"),
        (
            'run,params,loss\n"a,1e7,4.5\nb",2e7,4.2\nc,4e7,4.0\n',
            "opens in line 2 closes in line 3 and takes whole rows into one field",
        ),
        (GOOD.replace("\nb,", "\n#b,"), "line 3 begins with #"),
        ("run,params,loss\n", "holds no rows below its header (line 1)"),
        ("run,params,loss\n,,\n\n", "holds no rows"),
        ("x,y\n", "holds no rows"),
        ("# nothing\n\n", "is empty: it holds no rows"),
        ("", "is empty: it holds no rows"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_with_its_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    message = refused(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'a.csv'}: ")
    assert reason in message


def test_a_field_beyond_the_readers_limit_is_refused(tmp_path: Path) -> None:
    assert "line 3 cannot be read" in refused(tmp_path, GOOD.replace("b,", "b" * 200_000 + ","))


def test_labels_that_all_begin_with_a_hash_sign_are_labels(tmp_path: Path) -> None:
    text = "run,params,loss\n#1,1e7,4.5\n#2,2e7,4.2\n"
    assert [row.fields[0] for row in records(tmp_path, text).rows] == ["#1", "#2"]


def test_lines_are_written_as_ranges() -> None:
    assert lines_text([4]) == "line 4"
    assert lines_text([4, 7, 8, 9]) == "lines 4, 7-9"
    assert lines_text(range(2, 40, 2)) == "lines 2, 4, 6, 8, 10, 12, 14, 16, ... (19 lines)"


LABEL = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\x85\u2028\u2029"),
    min_size=1,
    max_size=8,
).filter(lambda text: text == text.strip() and not text.startswith("#"))


@settings(max_examples=60)
@given(labels=st.lists(LABEL, min_size=1, max_size=6), delimiter=st.sampled_from(",;\t|"))
def test_what_the_standard_writer_writes_is_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str], delimiter: str
) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerows([("run", *WANTED), *((label, "1e7", "4.5") for label in labels)])
    found = records(tmp_path_factory.mktemp("table"), stream.getvalue())
    assert [row.fields[0] for row in found.rows] == labels
    assert [row.line for row in found.rows] == list(range(2, len(labels) + 2))


def test_a_header_inside_the_table_is_named(tmp_path: Path) -> None:
    assert "line 5 repeats the header" in refused(tmp_path, GOOD + GOOD)
    assert "lines 5, 9 repeat the header" in refused(tmp_path, GOOD * 3)


def test_marks_of_no_width_tell_no_labels_apart(tmp_path: Path) -> None:
    found = records(tmp_path, GOOD.replace("b,", "a\u200b,").replace("c,", "\ufeffa ,"))
    assert [row.fields[0] for row in found.rows] == ["a", "a", "a"]
    assert "line 5 repeats the header" in refused(tmp_path, GOOD + "\ufeff" + GOOD)
