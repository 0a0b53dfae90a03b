"""The table of what latents hold of a text's structure."""

from __future__ import annotations

from analysis.plotting.structure import structure_table


def test_a_row_has_its_gaps_with_errors_and_its_probe() -> None:
    metrics: dict[str, float | None] = {
        "diagnostic/history_gap_at_time/0.1": 0.25,
        "diagnostic/history_gap_error_at_time/0.1": 0.01,
        "diagnostic/history_gap_at_time/0.9": 0.5,
        "diagnostic/history_gap_error_at_time/0.9": 0.02,
        "diagnostic/late_history_gap_at_time/0.9": 0.125,
        "diagnostic/late_history_gap_error_at_time/0.9": 0.02,
        "diagnostic/topic_probe/accuracy": 0.925,
    }
    found = structure_table("run", [("cola", metrics), ("ar", {"val/nll": 1.0})])
    assert found is not None
    titles = [column.title for column in found.columns]
    assert titles == ["run", "gap at t = 0.1", "gap at t = 0.9", "late, t = 0.9",
                      "topic by a probe"]  # fmt: skip
    assert found.rows == [
        ["cola", "+0.2500 ± 0.0100", "+0.5000 ± 0.0200", "+0.1250 ± 0.0200", "92.5%"]
    ]


def test_without_latents_there_is_no_table() -> None:
    assert structure_table("run", [("ar", {"val/nll": 1.0})]) is None
