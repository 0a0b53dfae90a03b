"""What guesses without a model give, and which runs know more than that."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.plotting.page_table import Column, Table, table
from analysis.plotting.variants import by_curve
from cola.families.registry import IMPORTED
from cola.records import KINDS, REFERENCE_LINES

ONE_TEXT = 1e-9  # nats a token by which guesses may differ on one text
# What each line is, for people; the worst guess first.
DESCRIPTIONS = {
    "uniform": "a uniform guess",
    "unigram": "token frequencies",
    "bigram": "frequencies after the token before",
    "truth": "the source itself (true entropy)",
}


def lines_of(runs: pd.DataFrame) -> dict[str, float]:
    """The lines of the sequences that scores are of, in nats per token; empty where no run has any.

    The runs of a study share their sequences, so any run's lines are those of all.
    """
    found = {name: runs[f"reference_{name}"].dropna() for name in REFERENCE_LINES}
    return {name: float(values.iloc[0]) for name, values in found.items() if len(values)}


def other_text(runs: pd.DataFrame) -> str:
    """Why scores are not known to be of one text, as a clause; empty where they are: the runs of a
    study share their sequences."""
    if (runs["family"] == IMPORTED).all():
        return "whether imported losses are of one text and tokenizer is not known"
    finished = runs[runs["status"] == "finished"]
    for name in REFERENCE_LINES:
        values = finished[f"reference_{name}"].dropna().astype(float)
        if len(values) and values.max() - values.min() > ONE_TEXT:
            return "guesses without a model differ between runs: their scores are of other texts"
    return ""


def in_bits_per_byte(lines: Mapping[str, float], runs: pd.DataFrame) -> dict[str, float]:
    """The lines in bits per byte, with the compressor's."""
    known = runs.dropna(subset=["nll", "bits_per_byte"])
    if known.empty:
        return {}
    factor = float(known["bits_per_byte"].iloc[0] / known["nll"].iloc[0])
    xz = runs["reference_xz"].dropna()
    compressed = {"xz": float(xz.iloc[0])} if len(xz) else {}
    return {name: value * factor for name, value in lines.items()} | compressed


def informative(final: pd.DataFrame, lines: Mapping[str, float]) -> pd.Series:
    """Whether each run is better than token frequencies: what is not is drawn and not fitted."""
    return final["nll"] < lines.get("unigram", float("inf"))


def floor_warnings(
    final: pd.DataFrame, lines: Mapping[str, float], labels: Mapping[str, str]
) -> list[str]:
    """Which runs are left out of fits, predictions and comparisons, a sentence a curve."""
    warnings = []
    left_out = final[~informative(final, lines)]
    for variant, group in by_curve(left_out):
        of = int((final["variant"] == variant).sum())
        names = ", ".join(group.sort_values("budget")["name"])
        warnings.append(
            f"{labels[str(variant)]}: {len(group)} of {of} runs are not better than token "
            f"frequencies ({lines['unigram']:.3f} nats per token); they are drawn, and left out of "
            f"fits, predictions and comparisons: {names}"
        )
    return warnings


def headlines(
    final: pd.DataFrame, lines: Mapping[str, float], labels: Mapping[str, str]
) -> list[str]:
    """One sentence a curve that has no run, or not its largest one, above a guess's knowledge."""
    sentences = []
    for variant, group in by_curve(final):
        means = group.groupby("budget")["nll"].mean().sort_index()
        passed = [name for name in REFERENCE_LINES if means.iloc[-1] < lines.get(name, -1.0)]
        if not lines or "unigram" in passed:
            continue
        worst = "uniform" if "uniform" not in passed else "unigram"
        sentences.append(
            f"{labels[str(variant)]} at its largest budget is not better than "
            f"{DESCRIPTIONS[worst]} ({means.iloc[-1]:.3f} against {lines[worst]:.3f} nats per "
            "token): its runs say nothing yet of how it scales."
        )
    return sentences


def excess_sentences(runs: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """What each curve's runs exceed the loss of the text's own source by, a sentence a curve; none
    where the source is not known."""
    known = runs[(runs["status"] == "finished") & runs["excess_nats_per_token"].notna()]
    sentences = []
    for variant, group in by_curve(known):
        means = group.groupby("budget")["excess_nats_per_token"].mean().sort_index()
        kinds = [kind for kind in KINDS if kind != "exact" and (group["nll_kind"] == kind).any()]
        beside = f" (by {' or '.join(f'a {k}' if k == 'bound' else f'an {k}' for k in kinds)})"
        amounts = [
            f"{means[budget]:.3f} {'nats per token ' * (not index)}at {budget:.3g}"
            for index, budget in enumerate(dict.fromkeys([means.index[0], means.index[-1]]))
        ]
        sentences.append(
            f"{labels[str(variant)]} exceeds the loss of the text's own source by "
            f"{' and by '.join(amounts)} FLOPs{beside if kinds else ''}."
        )
    return sentences


def line_table(lines: Mapping[str, float], bits: Mapping[str, float]) -> Table | None:
    """The lines; the compressor has no nats per token."""
    rows = [
        {"line": DESCRIPTIONS[name], "nats": f"{value:.3f}", "bits": f"{bits[name]:.3f}"}
        for name, value in lines.items()
        if name in bits
    ]
    if "xz" in bits:
        rows.append({"line": "LZMA (xz)", "nats": "–", "bits": f"{bits['xz']:.3f}"})
    columns = [
        Column("line", "guess"),
        Column("nats", "nats per token"),
        Column("bits", "bits per byte"),
    ]
    return table(columns, rows)
