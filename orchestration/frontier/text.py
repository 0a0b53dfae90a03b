"""A frontier as tables and sentences for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from cola.terminal import say
from cola.terminal_tables import NONE, Column, fitted

METRICS = {
    "entropy": "entropy",
    "reference_nats_per_token": "reference, nats",
    "brierlm": "BrierLM",
    "brier_1": "Brier-1",
    "first_token_accuracy": "first token",
    "mauve": "MAUVE",
    "distinct_2": "distinct-2",
}


def print_frontier(console: Console, record: Mapping[str, Any], *, wide: bool) -> None:
    """The points of all curves, what comparisons say, cost by batch, and notes."""
    fitted(None, point_columns(record), console, wide=wide).print(console)
    if any(curve["speed"] for curve in record["curves"]):
        fitted(None, speed_columns(record["curves"]), console, wide=wide).print(console)
    for match in record["comparisons"]:
        say(console, match["sentence"])
    if not record["comparisons"]:
        say(console, "The curves have no entropy in common, or there is one alone: no comparison.")
    for note in record["notes"]:
        say(console, f"note: {note}")
    say(console, f"`cola report {record['study']}` draws it.")


def point_columns(record: Mapping[str, Any]) -> list[Column]:
    """A row a setting, after the text's own."""
    rows = [("the text itself", "", record["held_out"], None)]
    for curve in record["curves"]:
        for point in curve["points"]:
            cost = point["flops_per_token"]
            rows.append((curve["label"], settings_text(point), point["metrics"], cost))
    columns = [
        Column("curve", [row[0] for row in rows], left=True),
        Column("setting", [row[1] for row in rows], left=True),
    ]
    for rank, (name, title) in enumerate(METRICS.items()):
        cells = [number(metrics.get(name), metrics.get(f"{name}_standard_error"))
                 for _, _, metrics, _ in rows]  # fmt: skip
        if any(cell != NONE for cell in cells):
            columns.append(Column(title, cells, rank=rank))
    costs = [NONE if row[3] is None else f"{row[3]:.3g}" for row in rows]
    return [*columns, Column("FLOPs/token", costs, rank=2)]


def settings_text(point: Mapping[str, Any]) -> str:
    """What of the base settings a point has changed."""
    changed = point["changed"]
    return ", ".join(f"{key} {value:g}" for key, value in changed.items()) or "base"


def speed_columns(curves: Sequence[Mapping[str, Any]]) -> list[Column]:
    """A row a batch size of each curve's first run, at its base settings."""
    rows = [
        (curve["label"], int(batch), found)
        for curve in curves
        for batch, found in curve["speed"].get("by_batch", {}).items()
    ]
    return [
        Column("curve", [label for label, _, _ in rows], left=True),
        Column("batch", [str(batch) for _, batch, _ in rows]),
        Column("tokens/s", [f"{found['tokens_per_second']:,.0f}" for _, _, found in rows]),
        Column("first tokens", [first_text(found) for _, _, found in rows]),
        Column("memory", [memory_text(found["peak_bytes"]) for _, _, found in rows], rank=1),
    ]


def first_text(found: Mapping[str, Any]) -> str:
    """Seconds to the first tokens, and how many they are."""
    return f"{found['first_tokens_seconds']:.3f} s ({found['first_tokens']})"


def memory_text(peak: float | None) -> str:
    """Peak of a GPU's memory; a CPU has no counter of what one generation takes."""
    return "not measured on a CPU" if peak is None else f"{peak / 1e9:.2f} GB"


def number(value: float | None, error: float | None) -> str:
    """A value with its standard error."""
    if value is None:
        return NONE
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
