"""Rungs as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.errors import SpecError
from orchestration.planning.units import rungs_as_text, rungs_in


@given(st.frozensets(st.integers(0, 30), min_size=1))
def test_rungs_are_read_as_they_are_written(rungs: frozenset[int]) -> None:
    assert rungs_in(rungs_as_text(rungs)) == rungs


def test_neighbours_are_a_range() -> None:
    assert rungs_as_text([5, 1, 0, 2]) == "0-2,5"
    assert rungs_in(" 0-2, 5") == {0, 1, 2, 5}


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "2-1", "0,,1", "1.5", "0-2-3", "99999"])
def test_what_is_no_list_of_rungs_is_one_line(text: str) -> None:
    with pytest.raises(SpecError, match=r"--rungs .*: is no list of rungs; write their places"):
        rungs_in(text)
