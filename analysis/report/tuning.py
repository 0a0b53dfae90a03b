"""How the settings of a study's families were tuned, and the rates with which they trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from cola.families.registry import curve_label
from cola.tuning.record import TuningRecord
from cola.tuning.text import TunedCurve, tuning_sentences

BATCH = "training.batch_sequences"
RATE = "training.optimizer.learning_rate"
STAGES = "training.stages."
UNSET = ("None", "none")


def tuning_statements(spec: Mapping[str, Any], runs: pd.DataFrame) -> list[str]:
    """By the record that the study took, and by its runs; the author's word without a record.

    Raises:
        SpecError: the saved study's record is damaged.
    """
    finished = runs[runs["status"] == "finished"]
    if finished.empty:
        return []
    values = spec.get("tuning")
    record = None if values is None else TuningRecord.parse(values, origin="the saved study")
    curves = {
        str(variant): TunedCurve(
            curve_label(str(variant), str(group["family"].iloc[0])), sorted(set(group["budget"]))
        )
        for variant, group in finished.groupby("variant", sort=False)
    }
    declared = str((spec.get("matching") or {}).get("tuning", "none"))
    rates = [
        rates_sentence(curve.label, finished[finished["variant"] == name])
        for name, curve in curves.items()
    ]
    return [*tuning_sentences(record, curves, declared), *rates]


def rates_sentence(label: str, runs: pd.DataFrame) -> str:
    """Peak rates (by stage) and batches of a curve's finished runs, by budget."""
    by_budget = runs.drop_duplicates("budget").sort_values("budget")
    each = [
        f"{run['budget']:.3g}: {', '.join(rates_of(run['training']))}, batch "
        f"{run['training'].get(BATCH, '?')}"
        for _, run in by_budget.iterrows()
    ]
    return f"{label} trained at peak rates {'; '.join(each)}."


def rates_of(training: Mapping[str, str]) -> Iterator[str]:
    """The rates of a run: of its stages that have their own, and the one of all others."""
    stages = {
        key.split(".")[2]: value
        for key, value in training.items()
        if key.startswith(STAGES) and key.endswith(".learning_rate") and value not in UNSET
    }
    for stage, value in stages.items():
        yield f"{stage} {float(value):.3g}"
    rate = f"{float(training[RATE]):.3g}" if RATE in training else "?"
    yield f"{rate} in stages without their own" if stages else rate
