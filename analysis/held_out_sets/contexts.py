"""Sequences beyond the training length on a report's page: likelihood and continuations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from analysis.plotting.page_table import Column, Table, table
from cola.records import OWN_TEXT, Metric

NOTE = (
    "Of each curve's first largest run, on sequences of the test split that are longer than those "
    "of training, so all of this is beyond training. They are packed as in training: one may hold "
    "several documents. Within is the second half of the training length, beyond all places behind "
    "it; a family that does not say what each place costs has neither. Continuations are of the "
    "same last tokens: behind the whole prompt, and behind its last tokens, as many as training "
    "knows. ± of a difference is half of its 95% interval over documents, else the standard error."
)
BITS = re.compile(
    re.escape(Metric.held_out(f"{OWN_TEXT}/LENGTH", "likelihood", "bits_per_byte")).replace(
        "LENGTH", r"(\d+)"
    )
)
COLUMNS = (
    Column("length", "tokens of a sequence"),
    Column("curve", "curve"),
    Column("kind", "likelihood"),
    Column("within", "nats per token within"),
    Column("beyond", "beyond"),
    Column("more", "more beyond"),
    Column("whole", "right tokens, whole prompt"),
    Column("cut", "cut to the training length"),
    Column("gain", "gain of the whole prompt"),
)

Measured = Sequence[tuple[str, str, Mapping[str, float]]]  # label, kind of its NLL, metrics


def context_table(runs: Measured) -> Table | None:
    """A row for each length and run; None where nothing was measured."""
    lengths = sorted({length for _, _, metrics in runs for length in lengths_of(metrics)})
    return table(
        COLUMNS,
        [
            {"length": f"{length:,}", "curve": label, "kind": kind} | _cells(metrics, length)
            for length in lengths
            for label, kind, metrics in runs
            if length in lengths_of(metrics)
        ],
    )


def context_sentences(runs: Measured) -> list[str]:
    """Whether each run pays more beyond the training length, and whether longer prompts help; and
    which curves were not measured."""
    absent = [
        f"Not measured at {length:,} tokens: {', '.join(others)}."
        for length in sorted({length for _, _, metrics in runs for length in lengths_of(metrics)})
        if (others := [label for label, _, found in runs if length not in lengths_of(found)])
    ]
    return absent + [
        sentence
        for label, _, metrics in runs
        for length in lengths_of(metrics)
        for sentence in (
            _sentence(label, length, metrics, "likelihood", "nll_more_beyond"),
            _sentence(label, length, metrics, "continuation", "gain"),
        )
        if sentence
    ]


def lengths_of(metrics: Mapping[str, float]) -> list[int]:
    """The lengths at which a run was measured."""
    return sorted(int(match[1]) for match in map(BITS.fullmatch, metrics) if match)


def _sentence(
    label: str, length: int, metrics: Mapping[str, float], task: str, name: str
) -> str | None:
    value, half = (
        _known(metrics, length, task, name),
        _known(metrics, length, task, f"{name}_half_interval"),
    )
    if value is None or half is None:
        return None
    if abs(value) <= half:
        said = "no difference is told apart"
    elif task == "likelihood":
        said = "tokens cost more there" if value > 0 else "tokens cost less there"
    else:
        said = "the longer prompt helps" if value > 0 else "the longer prompt hurts"
    what = (
        f"{value:+.3f} ± {half:.3f} nats per token beyond the training length against within it"
        if task == "likelihood"
        else f"{100 * value:+.1f} ± {100 * half:.1f}% right tokens behind whole prompts"
    )
    return f"{label} at {length:,} tokens: {what}; {said}."


def _cells(metrics: Mapping[str, float], length: int) -> dict[str, str]:
    def cell(task: str, name: str, spread: str, *, scale: float = 1.0, sign: str = "") -> str:
        value, error = _known(metrics, length, task, name), _known(metrics, length, task, spread)
        if value is None:
            return "–"
        unit, digits = ("%", 1) if scale > 1 else ("", 3)
        text = f"{scale * value:{sign}.{digits}f}{unit}"
        return text if error is None else f"{text} ± {scale * error:.{digits}f}"

    return {
        "within": cell("likelihood", "nll_within", "nll_within_standard_error"),
        "beyond": cell("likelihood", "nll_beyond", "nll_beyond_standard_error"),
        "more": cell("likelihood", "nll_more_beyond", "nll_more_beyond_half_interval", sign="+"),
        "whole": cell("continuation", "accuracy", "accuracy_standard_error", scale=100),
        "cut": cell("continuation", "cut_accuracy", "", scale=100),
        "gain": cell("continuation", "gain", "gain_half_interval", scale=100, sign="+"),
    }


def _known(metrics: Mapping[str, float], length: int, task: str, name: str) -> float | None:
    return metrics.get(Metric.held_out(f"{OWN_TEXT}/{length}", task, name))
