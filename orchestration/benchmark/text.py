"""A benchmark's results as text (torch-free)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cola.terminal_tables import aligned
from orchestration.benchmark.parts import Measured
from orchestration.planning.units import count

GB, MB = 1e9, 1e6


def as_text(values: dict[str, Any]) -> str:
    """Machine, versions and command, the tables, and what has no result and why."""
    sections = [
        machine_line(values["machine"]),
        f"{values['command']} ({values['began']})",
        *tables(values["results"]),
    ]
    sections += notes(values)
    return "\n\n".join(sections) + "\n"


def machine_line(machine: dict[str, Any]) -> str:
    """The device, then the versions."""
    parts = [f"{machine['processor']}, {machine['cores']} cores"]
    parts.append(f"{machine['memory_bytes'] / GB:.0f} GB")
    if machine["gpu"]:
        parts = [f"{machine['gpu']}, {machine['gpu_bytes'] / GB:.0f} GB", *parts]
        parts.append(f"CUDA {machine['cuda']}")
    versions = [f"{name} {version}" for name, version in machine["versions"].items() if version]
    return "; ".join([*parts, ", ".join(versions)])


def tables(results: Sequence[dict[str, Any]]) -> list[str]:
    """One table of training and one of generation, as far as there are results."""
    training = [row for row in results if row["what"] == Measured.TRAINING]
    generation = [row for row in results if row["what"] == Measured.GENERATION]
    found: list[list[str]] = []
    if training:
        header = (
            "training", "core", "stage", "micro-batch", "precision", "tokens/s", "MFU",
            "MFLOP/token", "first step", memory_title(training),
        )  # fmt: skip
        found.append(aligned([header, *map(training_cells, training)], left=1))
    if generation:
        titles = ("generation", "core", "batch", "tokens/s", "seconds", "first tokens")
        found.append(aligned([titles, *map(generation_cells, generation)], left=1))
    return ["\n".join(lines) for lines in found]


def memory_title(rows: Sequence[dict[str, Any]]) -> str:
    """What the last column of the training table holds."""
    if any(row["memory"]["peak_bytes"] for row in rows):
        return "peak / plan, GB"
    return "kept / plan, MB of activations"


def training_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One stage; of a GPU the peak of its memory, of a CPU the activations of a micro-batch."""
    memory, checkpointed = row["memory"], row["activation_checkpointing"]
    plan = memory["planned_activation_bytes"]
    if memory["peak_bytes"]:
        total = plan + memory["planned_state_bytes"]
        shown = f"{memory['peak_bytes'] / GB:.1f} / {total / GB:.1f}"
    else:
        kept = memory.get("kept_bytes")
        shown = f"{'–' if kept is None else f'{kept / MB:.1f}'} / {plan / MB:.1f}"
    return (
        row["variant"],
        count(row["core_parameters"]),
        row["stage"],
        f"{row['micro_batch_sequences']} x {row['sequence_length']}",
        row["precision"] + " compiled" * row["compile"] + " checkpointed" * checkpointed,
        f"{row['tokens_per_second']:,.0f}",
        f"{row['mfu']:.1%}",
        f"{row['train_flops_per_token']['executed'] / 1e6:,.1f}",
        f"{row['first_step_seconds']:.1f} s",
        shown,
    )


def generation_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One batch size."""
    first = row.get("first_tokens_seconds")
    return (
        row["variant"],
        count(row["core_parameters"]),
        f"{row['batch']}",
        f"{row['tokens_per_second']:,.0f}",
        f"{row['seconds']:.2f}",
        "" if first is None else f"{first:.3f} s ({row['first_tokens']})",
    )


def notes(values: dict[str, Any]) -> list[str]:
    """What has no result, and why."""
    found = [f"Failed: {name}: {why}" for name, why in values["failed"].items()]
    reasons: dict[str, list[str]] = {}
    for name, why in values["left_out"].items():
        reasons.setdefault(why, []).append(name)
    found += [f"Left out ({why}): {', '.join(parts)}" for why, parts in reasons.items()]
    found += [f"Size left out: {why}" for why in values["sizes_left_out"]]
    return found
