"""A study's conditions in a few lines: what was matched, tuning, seeds, data, hardware, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from analysis.conditions.matching import matched_and_not
from cola.spec.data import GeneratedText
from cola.tuning.record import TuningRecord
from cola.tuning.text import DECLARED

NOT_RECORDED = "not recorded"
HOUR = 3600.0
# What a run's length is shown in, with the seconds of one; the first that it has two of.
DURATIONS = (("days", 24 * HOUR), ("hours", HOUR), ("minutes", 60.0), ("seconds", 1.0))


def strip(
    runs: pd.DataFrame, spec: Mapping[str, Any], environment: Mapping[str, Any], split: str
) -> list[tuple[str, str]]:
    """(What, in words) for the finished runs of a study.

    Raises:
        SpecError: the saved study's record of its tuning is damaged.
    """
    finished = runs[runs["status"] == "finished"]
    matched, unmatched = matched_and_not(finished)
    return [
        ("Matched", ", ".join(matched) or "nothing"),
        ("Not matched", ", ".join(unmatched) or "nothing that is recorded"),
        ("Tuning", tuning(spec, finished)),
        ("Seeds", seeds(finished)),
        ("Scored on", scored_on(finished, split)),
        ("Data", data(spec)),
        ("Hardware", hardware(environment)),
        ("Software", software(finished)),
        ("Time", time(finished)),
        ("Cost", cost(finished, spec, environment)),
    ]


def imported_strip(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """What is known of runs that another project trained."""
    unknown = "not known: another project trained these runs"
    return [("Matched", unknown), ("Tuning", unknown), ("Seeds", seeds(runs))]


def tuning(spec: Mapping[str, Any], finished: pd.DataFrame) -> str:
    """By the record that the study took; the author's word without one.

    Raises:
        SpecError: the record is damaged.
    """
    values = spec.get("tuning")
    if values is None:
        declared = str((spec.get("matching") or {}).get("tuning", "none"))
        return f"not measured; by the author's word {DECLARED.get(declared, declared)}"
    record = TuningRecord.parse(values, origin="the saved study")
    variants = [str(name) for name in finished["variant"].unique()]
    how = "equally many trials" if record.equal_trials(variants) else "UNEQUAL numbers of trials"
    missing = [name for name in variants if name not in record.families]
    without = f"; not tuned: {', '.join(missing)}" if missing else ""
    edited = "; the record was EDITED" if record.is_edited else ""
    return f"{how} a family, by sweep {record.sweep}{without}{edited}"


def seeds(finished: pd.DataFrame) -> str:
    """How many, and which; of one, what it leaves open."""
    found = sorted(set(finished["seed"]))
    if len(found) == 1:
        return f"one ({found[0]}): how much another seed would change is not known"
    return f"{len(found)} ({', '.join(map(str, found))})"


def scored_on(finished: pd.DataFrame, split: str) -> str:
    """Sequences and documents of the scores' text, as far as they are recorded."""
    sequences = finished["test_sequences"].dropna() if split == "test" else pd.Series(dtype=float)
    clusters = finished["clusters"].dropna()
    counts = [
        f"{values.iloc[0]:,.0f} {name}"
        for values, name in ((sequences, "sequences"), (clusters, "documents"))
        if len(values)
    ]
    amount = f"{' of '.join(counts)}, " if counts else ""
    return f"{amount}the {split} split" + (
        ", which neither training nor selection has seen" if split == "test" else ""
    )


def data(spec: Mapping[str, Any]) -> str:
    """Corpus, vocabulary and sequence length."""
    found = spec.get("data")
    if not isinstance(found, Mapping):
        return NOT_RECORDED
    tokenizer = found.get("tokenizer") or {}
    parts = [corpus(found.get("corpus") or {})]
    if tokenizer.get("vocab_size"):
        parts.append(
            f"a vocabulary of {tokenizer['vocab_size']:,} ({tokenizer.get('kind', 'bpe')})"
        )
    if found.get("sequence_length"):
        parts.append(f"sequences of {found['sequence_length']:,} tokens")
    return ", ".join(parts)


def corpus(found: Mapping[str, Any]) -> str:
    """What text a study read."""
    match found.get("source"):
        case "python-stdlib":
            return "the Python standard library's sources"
        case "files":
            return f"files of {', '.join(map(str, found.get('paths', [])))}"
        case "huggingface":
            config = f", {found['config']}" if found.get("config") else ""
            return f"{found.get('name')}{config} of the Hugging Face hub"
        case "generated":
            return generated(found)
    return "a corpus that is not recorded"


def generated(found: Mapping[str, Any]) -> str:
    """What a generated corpus is drawn from, by its keys; those at their defaults are not kept."""
    values = GeneratedText.model_validate(found)
    chains = f"chains over {values.symbols} symbols" if values.order else "independent symbols"
    topics = (
        f"{values.topics} hidden topics that stay for {values.topic_tokens:g} symbols in the mean, "
        if values.topics > 1
        else ""
    )
    return f"{values.documents:,} documents drawn from {topics}{chains} (seed {values.seed})"


def hardware(environment: Mapping[str, Any]) -> str:
    """What the largest run was trained on, by its own record."""
    if not environment.get("workers"):
        return NOT_RECORDED
    workers = int(environment["workers"])
    gpus = Counter(environment.get("gpus") or [])
    if gpus:
        each = "; ".join(f"{name}" for name in gpus)
        devices = f"{workers} × {each}" if len(gpus) == 1 else f"{workers} GPUs ({each})"
    else:
        threads = environment.get("threads_per_worker", 1)
        kind, cores = environment.get("processor", "CPU"), environment.get("cpu_count", "?")
        devices = (
            f"CPU ({kind}): {workers} worker{'s' * (workers > 1)} of {threads} "
            f"thread{'s' * (threads > 1)}, {cores} cores in the machine"
        )
    return f"{devices}, ZeRO stage {environment.get('zero_stage', '?')}"


def software(finished: pd.DataFrame) -> str:
    """The product's version and the commits of the checkouts that trained the runs."""
    found = finished["software"].dropna() if "software" in finished else pd.Series(dtype=object)
    return ", ".join(found.unique()) or NOT_RECORDED


def time(finished: pd.DataFrame) -> str:
    """Of training, and between which days."""
    seconds = finished["elapsed_seconds"].dropna()
    if seconds.empty:
        return NOT_RECORDED
    text = f"{duration(float(seconds.sum()))} of training in {len(seconds)} runs"
    first, last = finished["started"].min(), finished["ended"].max()
    if pd.isna(first) or pd.isna(last) or last <= first:
        return text
    days = list(dict.fromkeys(day(float(moment)) for moment in (first, last)))
    return f"{text}, {' to '.join(days)}"


def day(milliseconds: float) -> str:
    """The date of a moment since 1970, UTC."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d}"


def duration(seconds: float) -> str:
    """In the largest unit that it has two of."""
    unit, size = next((pair for pair in DURATIONS if seconds >= 2 * pair[1]), DURATIONS[-1])
    return f"{seconds / size:.3g} {unit}"


def cost(finished: pd.DataFrame, spec: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Training FLOPs, device hours and, where the study has a price, what they cost."""
    parts = []
    for name in ("executed", "nominal"):
        flops = finished[f"train_flops_{name}"].dropna().astype(float).sum()
        if flops > 0:
            parts.append(f"{flops:.3g} {name} FLOPs")
    seconds, workers = finished["elapsed_seconds"].dropna().sum(), environment.get("workers")
    if seconds > 0 and workers:
        resources = spec.get("resources") or {}
        gpus = bool(environment.get("gpus"))
        each = 1.0 if gpus else float(resources.get("cpus_per_worker") or 1.0)
        hours = seconds / HOUR * int(workers) * each
        parts.append(f"{hours:.3g} {'GPU' if gpus else 'core'} hours")
        if resources.get("price_per_hour"):
            parts.append(f"{hours * float(resources['price_per_hour']):,.2f} at the study's price")
    return ", ".join(parts) or NOT_RECORDED
