"""Further held-out texts on a report's page: a table, and a sentence a text and pair of curves."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.held_out_sets.measured import TextResult
from analysis.held_out_sets.shift import PER_CENT, Estimate, difference, estimate_of, mean_of
from analysis.plotting.page_table import Column, Table, table
from cola.records import OWN_TEXT

NOTE = (
    "Of each curve's largest runs, in the mean over seeds. Bits per byte do not depend on the "
    "tokenizer; an exact NLL, a bound and an estimate are not the same measurement, and the growth "
    "of a bound is the bound's. ± is the standard error over documents, intervals are 95% ones "
    "over documents: paired where both texts, or both models, are of the same documents, else of "
    "independent ones. They hold for these seeds. Of Brier-1 and BrierLM the higher are better."
)
COLUMNS = (
    Column("text", "text"),
    Column("curve", "curve"),
    Column("documents", "documents"),
    Column("bits", "bits per byte"),
    Column("shift", "more than of the own test text"),
    Column("nats", "nats per token"),
    Column("kind", "likelihood"),
    Column("brier", "Brier-1"),
    Column("brier_shift", "more than of the own test text"),
    Column("brierlm", "BrierLM"),
)

Results = Mapping[str, Mapping[str, TextResult]]  # by curve and text


def text_table(results: Results, labels: Mapping[str, str]) -> Table | None:
    """A row for each text and curve; None where nothing was measured."""
    rows = []
    for text in _texts(results):
        for curve, by_text in results.items():
            if text in by_text:
                own = by_text.get(OWN_TEXT) if text != OWN_TEXT else None
                rows.append(_row(text, labels[curve], by_text[text], own))
    return table(COLUMNS, rows)


def text_sentences(results: Results, labels: Mapping[str, str]) -> list[str]:
    """What each text costs the curves, and whether one loses more by it than the first curve."""
    curves = [curve for curve, by_text in results.items() if OWN_TEXT in by_text]
    sentences = []
    for text in _texts(results):
        measured = [curve for curve in curves if text in results[curve]]
        if text == OWN_TEXT or not measured:
            continue
        growths = ", ".join(
            f"{labels[curve]} {_signed(_growth(results[curve], text).mean)}" for curve in measured
        )
        sentences.append(
            f"From the study's own test text to `{text}`, bits per byte change by: {growths}."
        )
        for curve in measured[1:]:
            found = _against(results, text, measured[0], curve)
            if found is not None:
                names = labels[curve], labels[measured[0]]
                sentences.append(_pair_sentence(text, names, *found))
    return sentences


def _texts(results: Results) -> list[str]:
    """All texts, the study's own first."""
    names = dict.fromkeys(text for by_text in results.values() for text in by_text)
    return sorted(names, key=lambda name: name != OWN_TEXT)


def _growth(by_text: Mapping[str, TextResult], text: str) -> Estimate:
    return difference(by_text[text].bits, by_text[OWN_TEXT].bits)


def _against(
    results: Results, text: str, first: str, curve: str
) -> tuple[Estimate, Estimate] | None:
    """By how much a curve's bits per byte are above the first's on the text, and how much more that
    is than on the study's own; None where they were not measured on the same sequences."""
    here, own = (
        results[curve][name].bits.minus(results[first][name].bits) for name in (text, OWN_TEXT)
    )
    if here is None or own is None:
        return None
    return estimate_of(here), difference(here, own)


def _pair_sentence(text: str, names: tuple[str, str], gap: Estimate, more: Estimate) -> str:
    told = "" if more.is_apart else ", so whether its loss differs is not decided"
    return (
        f"On `{text}` {names[0]} has {_signed(gap.mean)} bits per byte against {names[1]} "
        f"({_interval(gap)}); that is {_signed(more.mean)} against their difference on the study's "
        f"own test text ({_interval(more)}){told}."
    )


def _row(text: str, label: str, found: TextResult, own: TextResult | None) -> dict[str, str]:
    bits, nats = mean_of(found.bits), mean_of(found.nats)
    row = {
        "text": "own test text" if text == OWN_TEXT else text,
        "curve": f"{label} ({found.seeds} seeds)" if found.seeds > 1 else label,
        "documents": f"{bits.clusters:,}",
        "bits": f"{bits.mean:.3f} ± {bits.standard_error:.3f}",
        "nats": f"{nats.mean:.3f} ± {nats.standard_error:.3f}",
        "kind": found.kind,
    }
    if own is not None:
        row["shift"] = _with_interval(difference(found.bits, own.bits))
    if found.brier is not None:
        brier = mean_of(found.brier)
        row["brier"] = f"{brier.mean:.3f} ± {brier.standard_error:.3f}"
        if own is not None and own.brier is not None:
            row["brier_shift"] = _with_interval(difference(found.brier, own.brier))
    if found.brierlm is not None:
        row["brierlm"] = f"{found.brierlm[0]:.2f} ± {found.brierlm[1]:.2f}"
    return row


def _with_interval(found: Estimate) -> str:
    if found.low is None:
        return _signed(found.mean)
    return f"{_signed(found.mean)} [{_signed(found.low)}, {_signed(found.high or 0.0)}]"


def _interval(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return "of one document, so without an interval"
    return f"{PER_CENT} interval {_signed(found.low)} to {_signed(found.high)}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"
