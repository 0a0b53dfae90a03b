"""Runs that know no more than how frequent tokens are: drawn, named, and not fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.report.reference import (
    excess_sentences,
    floor_warnings,
    headlines,
    in_bits_per_byte,
    informative,
)
from analysis.report.report import write_report
from tests.pages import text_of
from tests.unit.analysis.store import BUDGETS, KINDS, Store

LINES = {"uniform": 7.6, "unigram": 6.2, "bigram": 4.1}
LABELS = {"ar": "AR", "cola": "Cola DLM"}


def final(**losses: list[float]) -> pd.DataFrame:
    rows = [
        {
            "variant": variant,
            "family": variant,
            "budget": 10.0**k,
            "nll": nll,
            "name": f"{variant}-{k}",
        }
        for variant, values in losses.items()
        for k, nll in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_only_runs_below_token_frequencies_count() -> None:
    runs = final(ar=[6.3, 5.0, 4.0], cola=[9.0, 8.0, 7.7])
    assert informative(runs, LINES).tolist() == [False, True, True, False, False, False]
    assert informative(runs, {}).all()
    ar, cola = floor_warnings(runs, LINES, LABELS)
    assert ar.startswith("AR: 1 of 3 runs are not better than token frequencies (6.200")
    assert ar.endswith("comparisons: ar-0")
    assert cola.endswith("cola-0, cola-1, cola-2")


@pytest.mark.parametrize(
    ("last", "expected"),
    [(7.7, "a uniform guess (7.700 against 7.600"), (7.0, "token frequencies (7.000 against 6.200"),
     (6.0, None)],
)  # fmt: skip
def test_the_headline_names_the_worst_guess_that_is_not_beaten(
    last: float, expected: str | None
) -> None:
    sentences = headlines(final(cola=[9.0, last]), LINES, LABELS)
    assert [expected in sentence for sentence in sentences] == ([True] if expected else [])


def test_what_a_curve_exceeds_the_source_by_is_said_with_what_its_loss_is() -> None:
    row = {"family": "cola", "variant": "cola", "status": "finished", "nll_kind": "estimate"}
    runs = pd.DataFrame(
        [
            row | {"budget": 1e12, "excess_nats_per_token": 1.5},
            row | {"budget": 1e13, "excess_nats_per_token": 0.5},
            row | {"budget": 1e14, "excess_nats_per_token": 0.1, "status": "running"},
        ]
    )
    (sentence,) = excess_sentences(runs, {"cola": "Cola DLM"})
    assert sentence == (
        "Cola DLM exceeds the loss of the text's own source by 1.500 nats per token at 1e+12 and "
        "by 0.500 at 1e+13 FLOPs (by an estimate)."
    )
    (once,) = excess_sentences(runs[:1].assign(nll_kind="exact"), {"cola": "Cola DLM"})
    assert once.endswith("source by 1.500 nats per token at 1e+12 FLOPs.")
    assert excess_sentences(runs.assign(excess_nats_per_token=None), {}) == []


def test_lines_in_bits_per_byte_keep_their_ratio_to_the_loss() -> None:
    runs = pd.DataFrame({"nll": [4.0], "bits_per_byte": [2.0], "reference_xz": [2.5]})
    assert in_bits_per_byte({"unigram": 6.2}, runs) == {"unigram": 3.1, "xz": 2.5}


@pytest.mark.slow
def test_a_report_fits_nothing_that_sits_on_a_floor(store: Store, tmp_path: Path) -> None:
    levels = {"ar": 4.0, "llada": 5.0, "cola": 9.0}
    for family in KINDS:
        for rung in range(len(BUDGETS)):
            store.run("floors", family, rung, levels[family], LINES)
    spec: dict[str, Any] = {"tracking": {"uri": None}}
    result = write_report("floors", store.uri, tmp_path, spec=spec)
    assert result.fits["ar"].fit is not None
    assert result.fits["cola"].fit is None
    html = text_of((tmp_path / "report.html").read_text())
    assert "Cola DLM at its largest budget is not better than a uniform guess" in html
    assert "are drawn, and left out of fits" in html
    assert "Cola DLM against" not in html
    assert "token frequencies|6.200|" in html
    assert "cola-4e+12-seed66: " in html  # drawn all the same
