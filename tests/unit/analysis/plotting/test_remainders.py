"""The table of answers by the remainder of a prompt's length."""

from __future__ import annotations

from analysis.plotting.remainders import remainder_table

METRICS = {
    "eval/cloze/accuracy": 0.5,
    "eval/cloze/accuracy_at_remainder_0": 0.5,
    "eval/cloze/accuracy_at_remainder_0_standard_error": 0.125,
    "eval/cloze/accuracy_at_remainder_1": 0.25,
    "eval/cloze/accuracy_gain_divisible_by_2": 0.25,
    "eval/cloze/accuracy_gain_divisible_by_2_half_interval": 0.3,
    "continuation/chrf_at_remainder_0": None,
}


def test_each_measurement_has_a_row_with_its_remainders_and_gains() -> None:
    table = remainder_table(
        "point", [("patch_size=2", METRICS), ("patch_size=1", {"val/nll": 2.0})]
    )
    assert table is not None
    assert [column.title for column in table.columns] == [
        "point", "measurement", "remainder 0", "remainder 1", "gain where 2 divides"
    ]  # fmt: skip
    assert table.rows == [
        ["patch_size=2", "cloze: accuracy", "50.0% ± 12.5", "25.0%", "+25.0% ± 30.0"]
    ]


def test_nothing_by_remainder_is_no_table() -> None:
    assert remainder_table("run", [("a", {"eval/cloze/accuracy": 0.5})]) is None
