"""What a report says of a frontier beside its figures: sentences and tables."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

from analysis.generation_frontier.figures import ENTROPY
from analysis.generation_frontier.record import Frontier
from analysis.plotting.page_table import Column, Table, table

COLUMNS = {
    ENTROPY: "entropy, nats",
    "reference_nats_per_token": "reference, nats a token",
    "brierlm": "BrierLM",
    "brier_1": "Brier-1",
    "first_token_accuracy": "first token right",
    "mauve": "MAUVE",
    "distinct_2": "distinct-2",
    "repetition_4": "repetition-4",
}
SHARES = ("first_token_accuracy", "distinct_2", "repetition_4")


def frontier_content(frontier: Frontier | None, run_keys: Collection[str]) -> dict[str, Any] | None:
    """What the templates show; None where nothing was measured. `run_keys`: of the study's runs."""
    if frontier is None:
        return None
    gone = len(frontier.run_keys - set(run_keys))
    count = len(frontier.run_keys)
    stale = [
        f"{gone} of the {count} runs that it was measured on are not this study's: measure it anew."
    ]
    return {
        "sentences": frontier.sentences,
        "points": point_table(frontier),
        "speed": speed_table(frontier.speed),
        "speed_note": speed_note(frontier.speed),
        "notes": [*(stale if gone else []), *frontier.notes],
        "made": frontier.made,
        "command": frontier.command,
    }


def point_table(frontier: Frontier) -> Table | None:
    """A row a setting, the text itself first."""
    rows = [{"curve": "the text itself"} | cells(frontier.truth)]
    rows += [
        {"curve": row["label"], "setting": row["setting"], "variant": row["variant"]}
        | {"kind": "exact", "flops": f"{row['flops_per_token']:.3g}"}
        | cells({str(key): value for key, value in row.items()})
        for _, row in frontier.points.iterrows()
    ]
    return table(
        [
            Column("curve", "curve"),
            Column("setting", "setting", words=True),
            *(Column(name, title) for name, title in COLUMNS.items()),
            Column("flops", "FLOPs a token"),
        ],
        rows,
    )


def cells(values: dict[str, Any]) -> dict[str, str]:
    """The numbers of a setting with their standard errors, as text."""
    found = {}
    for name in COLUMNS:
        value, error = values.get(name), values.get(f"{name}_standard_error")
        if value is None or pd.isna(value):
            continue
        scale, unit = (100, "%") if name in SHARES else (1, "")
        text = f"{scale * value:.1f}{unit}" if name in SHARES else f"{value:.4g}"
        found[name] = text
        if error is not None and not pd.isna(error):
            found[name] += f" ± {scale * error:.2g}"
    return found


def speed_table(speed: pd.DataFrame) -> Table | None:
    """A row a curve and batch size."""
    rows = [
        {
            "curve": row["label"],
            "variant": row["variant"],
            "kind": "exact",
            "batch": f"{row['batch']}",
            "tokens": f"{row['tokens_per_second']:,.0f}",
            "first": f"{row['first_tokens_seconds']:.3g}",
            "piece": f"{row['first_tokens']}",
            "whole": f"{row['seconds']:.3g}",
            "memory": "" if pd.isna(row["peak_bytes"]) else f"{row['peak_bytes'] / 1e9:.2f}",
        }
        for _, row in speed.iterrows()
    ]
    return table(
        [
            Column("curve", "curve"),
            Column("batch", "batch"),
            Column("tokens", "tokens/s"),
            Column("first", "first tokens, s"),
            Column("piece", "which are"),
            Column("whole", "whole texts, s"),
            Column("memory", "peak memory, GB"),
        ],
        rows,
    )


def speed_note(speed: pd.DataFrame) -> str:
    """On what machine, and what is not measured there."""
    if speed.empty:
        return ""
    devices = " and ".join(sorted(set(speed["device"])))
    threads = int(speed["threads"].max())
    several = "s" * (threads > 1)
    note = (
        f"Measured on {devices} with {threads} thread{several} at the base settings, the fastest "
        "repetition; other work on the machine is in the times. The first tokens are one, a "
        "block, or the whole text where all come together."
    )
    if speed["peak_bytes"].isna().any():
        note += " Memory is not measured on a CPU, which counts no generation's own."
    return note
