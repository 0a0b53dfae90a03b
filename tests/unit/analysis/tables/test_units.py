"""Units that look wrong are noted by what they likely are; right ones pass in silence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.tables.units import COMPUTE_UNITS, unit_notes

N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(2e7, 3e9, 4), np.geomspace(1e9, 1e11, 4)))
NAMES = {"loss": "loss", "parameters": "n", "tokens": "d", "compute": "c"}


def notes(*columns: str, n: float = 1, d: float = 1, c: object = 1.0, loss: float = 3) -> list[str]:
    """Notes on a table whose true values are multiplied by these, of which `columns` are given."""
    values = {"parameters": N * n, "tokens": D * d, "compute": 6 * N * D * np.asarray(c)}
    rows = pd.DataFrame({"line": np.arange(2, len(N) + 2), "loss": np.full(len(N), loss)})
    given = set(columns or values)
    if given == {"parameters", "tokens"}:
        values["compute"] = 6 * values["parameters"] * values["tokens"]
    if given == {"parameters", "compute"}:
        values["tokens"] = values["compute"] / (6 * values["parameters"])
    for name in values if given != {"compute"} else given:
        rows[name] = values[name]
    return unit_notes(rows, {k: v for k, v in NAMES.items() if k == "loss" or k in given})


@pytest.mark.parametrize(
    "given", [(), ("parameters", "tokens"), ("parameters", "compute"), ("compute",)]
)
def test_counts_and_flops_pass(given: tuple[str, ...]) -> None:
    assert notes(*given) == []


@pytest.mark.parametrize("factor", COMPUTE_UNITS)
@pytest.mark.parametrize("convention", [0.5, 1.0, 2.0])
def test_the_unit_of_compute_is_named(factor: float, convention: float) -> None:
    (note,) = notes(c=factor * convention)
    assert f"is it in {COMPUTE_UNITS[factor]}? then multiply by {1 / factor:.3g}" in note


@pytest.mark.parametrize(
    ("n", "d", "c", "guess"),
    [
        (1e-6, 1, 1, "are parameters in millions"),
        (1e-9, 1, 1, "are parameters in millions or billions"),
        (1, 1e-9, 1, "are tokens in billions"),
        (1e-9, 1e-9, 1, "parameters in millions or billions and tokens in billions"),
        (1e-6, 1, 1e-9, "are parameters in millions, and C in GFLOPs or another unit"),
        (1, 1, 10, "do C, N and D use other units"),
    ],
)
def test_the_unit_of_sizes_is_named(n: float, d: float, c: float, guess: str) -> None:
    (note,) = notes(n=n, d=d, c=c)
    assert guess in note


def test_rows_in_several_units_are_noted_with_lines() -> None:
    factor = np.where(np.arange(len(N)) < 3, 1e-9, 1.0)
    (note,) = notes(c=factor)
    assert "1e-09 in line" in note
    assert "rows in several units" in note


def test_another_convention_is_noted_with_its_range() -> None:
    (note,) = notes(c=1.5)
    assert "C is 1.5 to 1.5 times 6 N D" in note


@pytest.mark.parametrize(
    ("given", "scales", "reason"),
    [
        (("parameters", "tokens"), {"n": 1e-7}, "16 of 16 rows have less than 1,000 parameters"),
        (("parameters", "tokens"), {"d": 1e-9}, "16 of 16 rows have less than 10,000 tokens"),
        (("parameters", "tokens"), {"d": 1e-5}, "tokens a parameter"),
        (("parameters", "compute"), {"c": 1e-9}, "is it in GFLOPs, TFLOPs"),
        (("parameters", "compute"), {"c": 1e-6}, "tokens a parameter (median) (tokens are C / 6 N"),
        (("compute",), {"c": 1e-9}, "is it in GFLOPs, TFLOPs"),
    ],
)
def test_sizes_that_make_no_sense_are_noted(
    given: tuple[str, ...], scales: dict[str, float], reason: str
) -> None:
    assert any(reason in note for note in notes(*given, **scales))


def test_a_perplexity_is_noted() -> None:
    (note,) = notes(loss=35)
    assert "perplexity" in note


def test_of_two_units_none_between_them_is_named() -> None:
    factor = np.where(np.arange(len(N)) < len(N) // 2, 1e-12, 1.0)
    found = notes(c=factor)
    assert any("rows in several units" in note for note in found)
    assert not any("MFLOPs" in note or "1e+06" in note for note in found)
