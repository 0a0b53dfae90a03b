"""Numbers of cells: plain decimals alone, with a hint for what people write instead."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.tables.numbers import parse_number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_is_written_by_repr_is_read_back(value: float) -> None:
    assert parse_number(repr(value)) == value


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "NA", "n/a", "null", "None", "#N/A"])
def test_spellings_of_a_missing_number(cell: str) -> None:
    assert math.isnan(parse_number(cell))


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("1.2B", "write 1.2e9, without a unit"),
        ("350M", "write 350e6, without a unit"),
        ("9 GFLOPs", "write 9e9, without a unit"),
        ("3%", "write the fraction 0.03"),
        ("1,234", "thousands without a separator"),
        ("1.234.567", "thousands without a separator"),
        ("1_000", "thousands without a separator"),
        ("1 000", "thousands without a separator"),
        ("5,481", "decimals with a point"),
        ("$5", "digits alone"),
        ("−3", "digits alone"),
        ("٤٢", "digits alone"),
        ("0x10", "digits alone"),
        ("1.5e", "digits alone"),
        ("True", "is not a number"),
        ("high", "is not a number"),
        ("inf", "is not finite"),
        ("-Infinity", "is not finite"),
        ("1e999", "is not finite"),
    ],
)
def test_anything_else_is_refused_with_a_hint(cell: str, hint: str) -> None:
    with pytest.raises(ValueError, match=r"(is|has) ") as caught:
        parse_number(cell)
    assert hint in str(caught.value)


@given(st.text(max_size=12))
def test_a_cell_is_a_finite_number_or_missing_or_refused(cell: str) -> None:
    try:
        value = parse_number(cell)
    except ValueError:
        return
    assert math.isnan(value) or value == float(cell)
