"""Sentences and tables on terminals of any width."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cola.terminal import say, waiting, wrapped
from cola.terminal_tables import Column, fitted

NAMES = ["llada-1.7e+12-seed66", "ar-4e+12-seed66"]
CLAUSE = "resume: from step 1,200 of 2,400; the disk was full"
COLUMNS = [
    Column("run", NAMES, left=True),
    Column("core", ["320,000", "480,000"], 1),
    Column("tokens", ["520,192", "928,768"], 2),
    *(Column(f"number {n}", [f"{n}.25e+12"] * 2, 3 + n) for n in range(6)),
    Column("what happens", ["new [bold]", CLAUSE], wraps=True),
]


def terminal(width: int, person: bool = True) -> tuple[Console, io.StringIO]:
    shown = io.StringIO()
    return Console(file=shown, width=width, force_terminal=person, color_system=None), shown


@given(st.text(alphabet="ab /\n-", max_size=200), st.integers(20, 90))
def test_sentences_break_at_words_alone(text: str, width: int) -> None:
    lines = wrapped(text, width).split("\n")
    assert [word for line in lines for word in line.split()] == text.split()
    assert all(len(line) <= width or " " not in line.strip() for line in lines)


def test_a_sentence_is_one_line_where_no_person_reads() -> None:
    text = "a sentence [of] words " * 20
    for person, lines in ((False, 1), (True, 6)):
        console, shown = terminal(80, person)
        say(console, text)
        assert len(shown.getvalue().splitlines()) == lines
        assert " ".join(shown.getvalue().split()) == text.strip()


@pytest.mark.parametrize("width", [30, 60, 80, 100, 119, 160, 400])
def test_no_cell_is_cut_and_what_has_no_room_is_named(width: int) -> None:
    console, shown = terminal(width)
    table = fitted("a title", COLUMNS, console, wide=False)
    table.print(console)
    lines = shown.getvalue().splitlines()
    assert "…" not in shown.getvalue()
    for name in (*NAMES, "new [bold]"):
        assert any(name in line for line in lines)
    assert max(map(len, lines)) <= max(width, table.width)
    heads = re.findall(r"(?<=┃)[^┃]+", lines[2])
    assert len(heads) + len(table.left_out) == len(COLUMNS)
    if width >= 60:
        assert max(map(len, lines)) <= width
    if width < 120:
        assert len(heads) <= 7
    below = " ".join(" ".join(lines).split())
    assert all(name in below for name in table.left_out)
    assert table.left_out == [c.name for c in COLUMNS if c.rank > 8 - len(table.left_out)]


def test_wide_has_every_column_and_so_has_a_pipe() -> None:
    for console, wide in ((terminal(60)[0], True), (terminal(200, person=False)[0], False)):
        assert fitted("", COLUMNS, console, wide=wide).left_out == []


def test_waiting_shows_nothing_where_no_person_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("loading") as following:
        following("generating")
    assert capsys.readouterr() == ("", "")
