"""What a report says of how the settings were tuned, and with which rates the runs trained."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.conditions.matching import tuning_statements
from cola.tuning.record import TuningRecord

RATE = "training.optimizer.learning_rate"


def runs() -> pd.DataFrame:
    batch = {"training.batch_sequences": "8"}
    joint = {"training.stages.joint.learning_rate": "0.02"}
    rows = [
        ("ar", 1e11, "finished", {RATE: "0.004", **batch}),
        ("ar", 4e11, "finished", {RATE: "0.002", **batch}),
        ("ar", 9e11, "failed", {RATE: "0.001", **batch}),
        ("cola", 1e11, "finished", {RATE: "0.01", **batch, **joint}),
    ]
    table = pd.DataFrame(rows, columns=["variant", "budget", "status", "training"])
    return table.assign(family=table["variant"])


def record() -> dict[str, Any]:
    search = {
        "budget": 1e11, "parameters": 100_000, "trials": 9, "finished": 5, "stopped": 3,
        "diverged": 1, "failed": 0, "beyond": 1, "flops": 2e12, "shared_flops": 0, "metric": 5,
        "at_edge": [RATE],
    }  # fmt: skip
    entry = {
        "family": "ar", "nll_kind": "exact", "searched": {RATE: "0.001 to 0.01"},
        "budgets": [search],
        "rules": {"learning_rate": {"kind": "tuned", "points": [{"budget": 1e11, "value": 4e-3}]}},
    }  # fmt: skip
    values = {
        "sweep": "tune", "sweep_hash": "a" * 64, "seeds": [66], "compute": "executed",
        "metric": {"name": "val/nll", "direction": "minimize", "split": "validation"},
        "parameters": "core", "families": {"ar": entry, "cola": entry | {"family": "cola"}},
        "data": {"fingerprint": "f", "tokenizer": {}, "sequence_length": 32},
    }  # fmt: skip
    return TuningRecord.parse(values).signed().model_dump(mode="json")


def test_a_report_reads_the_record_and_the_runs() -> None:
    text = "\n".join(tuning_statements({"tuning": record()}, runs()))
    assert "Tuning: equal trials (AR 8, Cola DLM 8; beyond an edge AR 1, Cola DLM 1 more)" in text
    assert "AR: tuned at 1e+11 with 9 trials (5 finished, 3 stopped early, 1 diverged" in text
    assert "2e+12 executed FLOPs" in text
    assert "AT THE EDGE of what was searched: learning_rate at 1e+11" in text
    assert "AR: tuned at 1e+11, extrapolated to 4e+11 " in text  # not to the run that failed
    assert "AR trained at peak rates 1e+11: 0.004, batch 8; 4e+11: 0.002, batch 8." in text
    own = "Cola DLM trained at peak rates 1e+11: joint 0.02, 0.01 in stages without their own"
    assert own in text


def test_a_record_that_was_edited_since_is_called_edited() -> None:
    values = record()
    values["families"]["ar"]["budgets"][0]["trials"] = 90
    assert "EDITED" in tuning_statements({"tuning": values}, runs())[0]


def test_without_a_record_nothing_was_measured() -> None:
    first, *_ = tuning_statements({"matching": {"tuning": "equal_trials"}}, runs())
    assert first.startswith("Tuning: not measured; the author's word")
