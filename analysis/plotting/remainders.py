"""Answers by the remainder of a prompt's length, as a table: of a study's runs, a sweep's points.

The modulus is how many lengths each prompt had (`evaluation.prompt_remainders`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.plotting.metric_names import metric_words
from analysis.plotting.page_table import Column, Table, table

AT = re.compile(r"(?P<name>.+)_at_remainder_(?P<number>\d+)")
GAIN = re.compile(r"(?P<name>.+)_gain_divisible_by_(?P<number>\d+)")
EXPLANATION = (
    "Each prompt was given in several lengths, without none, one, two ... of its first tokens, "
    "before the same answer. A patch of p tokens is split by a length that p does not divide: the "
    "columns of a gain say what lengths that their number divides have more than the others, by "
    "the same items, with a 95% interval over documents. An interval that holds 0 tells no "
    "difference apart, and one of no width is of items that all came out alike. Models whose patch "
    "is 1 split nothing: theirs is what chance gives."
)
SHARES = ("accuracy",)  # ends the names of what is shown in per cent

Metrics = Mapping[str, float | None]


def remainder_table(name: str, rows: Sequence[tuple[str, Metrics]]) -> Table | None:
    """A row for each (name of a run or point, metrics by their names in MLflow) and measurement by
    remainder."""
    found = [(label, key, metrics) for label, metrics in rows for key in measurements(metrics)]
    remainders, divisors = (
        sorted({int(m["number"]) for _, _, metrics in found for m in matches(metrics, form)})
        for form in (AT, GAIN)
    )
    columns = [
        Column("name", name, words=True),
        Column("measurement", "measurement", words=True),
        *(Column(f"at {r}", f"remainder {r}") for r in remainders),
        *(Column(f"gain {d}", f"gain where {d} divides") for d in divisors),
    ]
    return table(columns, [_row(*each, remainders, divisors) for each in found])


def measurements(metrics: Metrics) -> list[str]:
    """Names in MLflow of what was measured by remainder, without the remainder."""
    return list(dict.fromkeys(match["name"] for match in matches(metrics, AT)))


def matches(metrics: Metrics, form: re.Pattern[str]) -> list[re.Match[str]]:
    """Names of measured numbers, not of their errors, that have a form."""
    found = [form.fullmatch(key) for key in metrics if isinstance(key, str)]
    return [match for match in found if match and not pd.isna(metrics[match[0]])]


def _row(
    label: str, key: str, metrics: Metrics, remainders: Sequence[int], divisors: Sequence[int]
) -> dict[str, str]:
    row = {"name": label, "measurement": metric_words(key)}
    for number in remainders:
        at = f"{key}_at_remainder_{number}"
        row[f"at {number}"] = _cell(key, metrics.get(at), metrics.get(f"{at}_standard_error"))
    for number in divisors:
        gain = f"{key}_gain_divisible_by_{number}"
        half = metrics.get(f"{gain}_half_interval")
        row[f"gain {number}"] = _cell(key, metrics.get(gain), half, signed=True)
    return row


def _cell(key: str, value: float | None, spread: float | None, *, signed: bool = False) -> str:
    if value is None or pd.isna(value):
        return "–"
    share = key.endswith(SHARES)
    scale, digits, unit = (100.0, 1, "%") if share else (1.0, 3, "")
    sign = "+" if signed else ""
    text = f"{scale * value:{sign}.{digits}f}{unit}"
    if spread is None or pd.isna(spread):
        return text
    return f"{text} ± {scale * spread:.{digits}f}"
