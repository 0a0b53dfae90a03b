"""The strip of conditions below a report's first figure."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.conditions.matching import matched_and_not
from analysis.conditions.strip import corpus, cost, data, duration, hardware, imported_strip, strip
from tests.unit.analysis.report.test_matching import frame
from tests.unit.analysis.report.test_tuning import record

DAY = 24 * 3600 * 1000.0
SPEC: dict[str, Any] = {
    "matching": {"tuning": "unequal"},
    "data": {"corpus": {"source": "python-stdlib"}, "sequence_length": 128,
             "tokenizer": {"kind": "bpe", "vocab_size": 2048}},
    "resources": {"cpus_per_worker": 2, "price_per_hour": 0.5},
}  # fmt: skip
CPU = {"workers": 2, "gpus": [], "threads_per_worker": 2, "processor": "x86_64", "cpu_count": 8,
       "zero_stage": 1}  # fmt: skip


def runs() -> pd.DataFrame:
    table = frame().assign(
        seed=66, elapsed_seconds=450.0, started=20_000 * DAY, ended=20_001 * DAY,
        test_sequences=32.0, clusters=9.0, software="cola-scaling 1.0 (commit 0123)",
    )  # fmt: skip
    table.loc[table["variant"] == "cola", "tokens"] = 3000.0
    table["training"] = [
        {"training.optimizer.learning_rate": "0.01" if name == "cola" else "0.002"}
        for name in table["variant"]
    ]
    return table


def test_the_strip_says_what_the_numbers_rest_on() -> None:
    found = dict(strip(runs(), SPEC, CPU, "test"))
    assert found == {
        "Matched": "data and their order, training compute (executed FLOPs), core parameters, "
        "total parameters",
        "Not matched": "training tokens, learning rate",
        "Tuning": "not measured; by the author's word the families' settings were NOT tuned with "
        "equal effort",
        "Seeds": "one (66): how much another seed would change is not known",
        "Scored on": "32 sequences of 9 documents, the test split, which neither training nor "
        "selection has seen",
        "Data": "the Python standard library's sources, a vocabulary of 2,048 (bpe), sequences of "
        "128 tokens",
        "Hardware": "CPU (x86_64): 2 workers of 2 threads, 8 cores in the machine, ZeRO stage 1",
        "Software": "cola-scaling 1.0 (commit 0123)",
        "Time": "60 minutes of training in 8 runs, 2024-10-04 to 2024-10-05",
        "Cost": "2.97e+13 executed FLOPs, 2.4e+13 nominal FLOPs, 4 core hours, 2.00 at the study's "
        "price",
    }


def test_what_is_not_recorded_is_not_made_up() -> None:
    table = runs().assign(elapsed_seconds=float("nan"), clusters=float("nan"), training=[{}] * 8)
    table["data_order"] = [{} for _ in range(len(table))]
    found = dict(strip(table, {}, {}, "validation"))
    assert found["Matched"].startswith("training compute")
    assert "data and their order" in found["Not matched"]
    assert found["Data"] == found["Hardware"] == found["Time"] == "not recorded"
    assert found["Scored on"] == "the validation split"
    assert cost(table.drop(index=table.index), {}, {}) == "not recorded"


def test_a_record_of_tuning_takes_the_place_of_the_author_s_word() -> None:
    found = dict(strip(runs(), SPEC | {"tuning": record()}, CPU, "test"))
    assert found["Tuning"] == "equally many trials a family, by sweep tune"


def test_one_curve_matches_nothing() -> None:
    table = runs()
    assert matched_and_not(table[table["variant"] == "ar"]) == (
        ["one curve: nothing is compared"], [],
    )  # fmt: skip


def test_devices_and_data_are_named() -> None:
    gpus = {"workers": 8, "gpus": ["NVIDIA H100 80GB HBM3"] * 8, "zero_stage": 2}
    assert hardware(gpus) == "8 × NVIDIA H100 80GB HBM3, ZeRO stage 2"
    hub = {"data": {"corpus": {"source": "huggingface", "name": "a/b", "config": "en"}}}
    assert data(hub) == "a/b, en of the Hugging Face hub"
    assert [duration(s) for s in (0.5, 90.0, 7200.0, 86_400.0)] == [
        "0.5 seconds", "90 seconds", "2 hours", "24 hours",
    ]  # fmt: skip
    assert "not known" in dict(imported_strip(runs()))["Matched"]


def test_a_generated_corpus_is_described_by_its_source() -> None:
    found = corpus({"source": "generated", "documents": 40_000, "seed": 7})
    assert found == (
        "40,000 documents drawn from 8 hidden topics that stay for 64 symbols in the mean, chains "
        "over 64 symbols (seed 7)"
    )
    assert "hidden" not in corpus({"source": "generated", "topics": 1, "order": 0})
