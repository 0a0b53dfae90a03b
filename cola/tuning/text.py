"""What a plan and a report print of how the settings were tuned: sentences, and plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cola.errors import first_of
from cola.tuning.checks import span
from cola.tuning.record import EntryTuning, TuningRecord

DECLARED = {
    "none": "no family's settings were tuned",
    "equal_trials": "every family's settings were tuned with equally many trials",
    "unequal": "the families' settings were NOT tuned with equal effort",
}


@dataclass(frozen=True)
class TunedCurve:
    """An entry as a study has it: its name for people and its budgets, from small to large."""

    label: str
    budgets: Sequence[float]


def tuning_status(record: TuningRecord | None, entries: Sequence[str]) -> str:
    """`not measured`, `edited`, `equal_trials` or `unequal`: by the record, never by the author."""
    if record is None:
        return "not measured"
    if record.is_edited:
        return "edited"
    return "equal_trials" if record.equal_trials(list(entries)) else "unequal"


def tuning_sentences(
    record: TuningRecord | None, curves: Mapping[str, TunedCurve], declared: str
) -> list[str]:
    """How the entries' settings were tuned; `declared` is the author's word (`matching.tuning`)."""
    if record is None:
        word = DECLARED.get(declared, declared)
        return [
            f"Tuning: not measured; the author's word (matching.tuning: {declared}) is: {word}."
        ]
    sentences = [_effort(record, curves)]
    for name, curve in curves.items():
        entry = record.families.get(name)
        if entry is None:
            sentences.append(f"Not tuned: {curve.label} (the sweep has no such entry).")
            continue
        sentences.append(_entry(entry, curve.label))
        sentences += _extrapolated(entry, curve)
        sentences += [f"{curve.label}: {note}" for note in entry.notes]
    return sentences


def tuning_as_json(
    record: TuningRecord | None, curves: Mapping[str, TunedCurve], declared: str
) -> dict[str, Any]:
    """The same as plain values: `status`, the author's word, the record's effort by entry."""
    values: dict[str, Any] = {
        "status": tuning_status(record, list(curves)),
        "declared": declared,
        "sentences": tuning_sentences(record, curves, declared),
    }
    if record is None:
        return values
    entries = {name: record.families.get(name) for name in curves}
    return values | {
        "sweep": record.sweep,
        "sweep_hash": record.sweep_hash,
        "digest": record.digest,
        "metric": record.metric.model_dump(),
        "seeds": record.seeds,
        "families": {
            name: None
            if entry is None
            else entry.model_dump(mode="json", exclude={"conditions"})
            | {
                "trials": entry.trials,
                "beyond": entry.beyond,
                "flops": entry.flops,
                "at_edge": sorted(entry.at_edge),
                "extrapolated": extrapolated(entry, curves[name].budgets),
            }
            for name, entry in entries.items()
        },
    }


def extrapolated(entry: EntryTuning, budgets: Sequence[float]) -> list[float]:
    """Budgets of a study outside of those that were tuned."""
    tuned = [item.budget for item in entry.budgets]
    return [value for value in budgets if not min(tuned) <= value <= max(tuned)]


def _effort(record: TuningRecord, curves: Mapping[str, TunedCurve]) -> str:
    known = [name for name in curves if name in record.families]
    counts = ", ".join(f"{curves[name].label} {record.families[name].drawn}" for name in known)
    equal = record.equal_trials(list(curves))
    how = "equal trials" if equal else "UNEQUAL trials"
    more = [name for name in known if record.families[name].beyond]
    beyond = ", ".join(f"{curves[name].label} {record.families[name].beyond}" for name in more)
    goal = f"{record.metric.name} on the {record.metric.split} split"
    seeds = ", ".join(map(str, record.seeds))
    text = (
        f"Tuning: {how} ({counts}{f'; beyond an edge {beyond} more' if beyond else ''}), by sweep "
        f"{record.sweep} ({record.sweep_hash[:12]}), {goal}, seeds {seeds}."
    )
    if record.is_edited:
        text += (
            " EDITED: the record is not as the sweep wrote it (its digest differs), so neither "
            "settings nor effort are the sweep's."
        )
    return text


def _entry(entry: EntryTuning, label: str) -> str:
    states = ", ".join(
        f"{sum(getattr(item, state) for item in entry.budgets)} {text}"
        for state, text in (
            ("finished", "finished"),
            ("stopped", "stopped early"),
            ("diverged", "diverged"),
            ("failed", "failed"),
        )
    )
    ranges = "; ".join(f"{short(key)} {text}" for key, text in entry.searched.items())
    edges = "; ".join(
        f"{short(key)} at {', '.join(f'{budget:.3g}' for budget in budgets)}"
        for key, budgets in entry.at_edge.items()
    )
    taken = f" and {entry.shared_flops:.3g} taken from other runs" if entry.shared_flops else ""
    where = f"AT THE EDGE of what was searched: {edges}" if edges else "no optimum on an edge"
    budgets = [item.budget for item in entry.budgets]
    return (
        f"{label}: tuned at {span(budgets)} with {entry.trials} trials ({states}), "
        f"{entry.flops:.3g} executed FLOPs{taken}; searched {ranges}; found {_found(entry)}; "
        f"{where}."
    )


def _extrapolated(entry: EntryTuning, curve: TunedCurve) -> list[str]:
    beyond = extrapolated(entry, curve.budgets)
    if not beyond:
        return []
    listed = first_of([f"{value:.3g}" for value in beyond])
    tuned = span([item.budget for item in entry.budgets])
    return [
        f"{curve.label}: tuned at {tuned}, extrapolated to {listed} (the value of the "
        "nearest tuned budget holds there)."
    ]


def _found(entry: EntryTuning) -> str:
    """The settings at the tuned budgets."""
    found = []
    if entry.rules is not None:
        rules = {"rate": entry.rules.learning_rate, "batch tokens": entry.rules.batch_tokens}
        rules |= {f"rate of {s}": r for s, r in entry.rules.stage_learning_rates.items()}
        for name, rule in rules.items():
            if rule is not None:
                values = [rule.value(item.parameters, item.budget) for item in entry.budgets]
                found.append(f"{name} {', '.join(f'{value:.4g}' for value in values)}")
    if entry.training is not None:
        settings = flat(entry.training.model_dump(mode="json", exclude_unset=True))
        found += [f"{key} {value}" for key, value in settings.items()]
    return "; ".join(found)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys and texts; null is left out."""
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            result[f"{prefix}{key}"] = f"{value:g}" if isinstance(value, float) else str(value)
    return result


def short(key: str) -> str:
    """A key for people: its last part, of a stage with the stage's name."""
    parts = key.split(".")
    return f"{parts[-1]} of {parts[-2]}" if "stages" in parts[:-2] else parts[-1]
