"""Logs: what is written, where, at which level, and that children of a command inherit it."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from cola.errors import SpecError
from cola.logs import VARIABLE, inherited_variables, set_up_logging


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines of one record of each level from two packages and a library; stdout stays empty."""
    for name in ("orchestration.driver.launcher", "cola", "someone.else"):
        log = logging.getLogger(name)
        log.debug("a detail")
        log.info("a decision")
        log.warning("an assumption")
    written = capsys.readouterr()
    assert written.out == ""
    # The library's record is written by Python's own handler of last resort, or by pytest's.
    return [
        line for line in written.err.splitlines() if " orchestration." in line or " cola:" in line
    ]


def test_only_warnings_are_written_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    lines = lines_of(capsys)
    assert [line.split(" ", 2)[2] for line in lines] == [
        "WARNING orchestration.driver.launcher: an assumption",
        "WARNING cola: an assumption",
    ]


@pytest.mark.parametrize(
    ("variable", "verbosity", "expected"),
    [("info", 0, 4), ("debug", 0, 6), ("DEBUG", 0, 6), ("", 1, 4), ("", 2, 6), ("info", 3, 6)],
)
def test_the_option_wins_over_the_variable(
    variable: str,
    verbosity: int,
    expected: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, variable)
    set_up_logging(verbosity)
    assert len(lines_of(capsys)) == expected


def test_a_second_set_up_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(2)
    set_up_logging(1)
    assert len(lines_of(capsys)) == 4


def test_a_record_is_one_line_even_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("sweeps").warning("failed:\n%s", "here", exc_info=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert "WARNING sweeps: failed: | here | Traceback" in line
    assert line.endswith("ValueError: two | lines")


def test_libraries_stay_as_they_are() -> None:
    root, library = logging.getLogger(), logging.getLogger("ray.train")
    before = (list(root.handlers), root.level, list(library.handlers), library.level)
    set_up_logging(2)
    assert (list(root.handlers), root.level, list(library.handlers), library.level) == before


def test_another_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "loud")
    with pytest.raises(SpecError, match="COLA_LOG=loud: write info or debug, or unset it"):
        set_up_logging()


def test_children_inherit_what_the_option_asked_for() -> None:
    assert inherited_variables() == {}
    set_up_logging(2)
    assert inherited_variables() == {VARIABLE: "debug"}
    code = (
        "import logging; from cola.logs import set_up_logging; set_up_logging();"
        "logging.getLogger('sweeps').debug('from a child')"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == ""
    assert child.stderr.rstrip().endswith("DEBUG sweeps: from a child")
