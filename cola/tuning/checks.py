"""Whether a tuning record is of the study that takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cola.spec.data import DataSpec
from cola.tuning.record import EntryTuning, TuningRecord

# Chosen: a rule is followed up to this factor beyond what was tuned, and said to be extrapolated.
FARTHEST = 10.0
PLACES = ("path", "name")  # keys of a tokenizer
REMEDY = "tune this study (`cola sweep tune-families`), or leave `tuning` out"


def check_data(record: TuningRecord, data: DataSpec) -> None:
    """Refuse a record of other sequences or another tokenizer.

    Raises:
        ValueError: naming both values.
    """
    length = record.data.sequence_length
    if length != data.sequence_length:
        raise ValueError(
            f"tuning.data.sequence_length={length}: the study's data.sequence_length is "
            f"{data.sequence_length}; {REMEDY}"
        )
    # Not where it lies: its content, or its name on the hub, is in the fingerprint.
    mine = data.tokenizer.model_dump(mode="json", exclude=set(PLACES))
    theirs = {key: value for key, value in record.data.tokenizer.items() if key not in PLACES}
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise ValueError(
                f"tuning.data.tokenizer.{key}={theirs.get(key)}: the study's "
                f"data.tokenizer.{key} is {mine.get(key)}; {REMEDY}"
            )


def why_other_corpus(record: TuningRecord, fingerprint: str) -> str | None:
    """Why the record is of another corpus than this fingerprint's; None where it is not."""
    theirs = record.data.fingerprint
    if theirs == fingerprint:
        return None
    return (
        f"tuning.data.fingerprint={theirs[:12]}: the content of the study's corpus is another "
        f"({fingerprint[:12]}); {REMEDY}"
    )


def check_counts(record: TuningRecord, *, compute: str, parameters: str) -> None:
    """Refuse a record whose budgets or sizes count something else.

    Raises:
        ValueError: naming both counts.
    """
    for key, theirs, mine in (
        ("compute", record.compute, compute),
        ("parameters", record.parameters, parameters),
    ):
        if theirs != mine:
            raise ValueError(
                f"tuning.{key}={theirs}: the study's matching.{key} is {mine}; {REMEDY}"
            )


def check_entries(
    record: TuningRecord, families: Mapping[str, str], stages: Mapping[str, Sequence[str]]
) -> None:
    """Refuse entries and stages that the study lacks; `families` and `stages` are by entry.

    Raises:
        ValueError: naming it, and what the study has.
    """
    for name, entry in record.families.items():
        where = f"tuning.families.{name}"
        if name not in families:
            raise ValueError(
                f"{where}: the study has no such entry; families has {', '.join(families)}; "
                f"{REMEDY}"
            )
        if entry.family != families[name]:
            raise ValueError(
                f"{where}.family={entry.family}: the study's entry is of family "
                f"{families[name]}; {REMEDY}"
            )
        for key in stage_keys(entry):
            if key.rpartition(".")[2] not in stages[name]:
                raise ValueError(
                    f"{where}.{key}: {entry.family} has no such stage; it has "
                    f"{', '.join(stages[name])}"
                )


def stage_keys(entry: EntryTuning) -> list[str]:
    """Keys of the entry's settings that are of a stage, which their last part names."""
    training, rules = entry.training, entry.rules
    keys = [f"training.stages.{stage}" for stage in (training.stages if training else ())]
    return keys + [
        f"rules.stage_learning_rates.{stage}"
        for stage in (rules.stage_learning_rates if rules else ())
    ]


def check_reach(
    record: TuningRecord, name: str, *, budgets: Sequence[float], sizes: Iterable[int | None]
) -> None:
    """Refuse a record that was tuned nowhere near the study's budgets or sizes of an entry.

    Raises:
        ValueError: no budget, or no size, is within a factor of 10 of what was tuned.
    """
    entry = record.families[name]
    tuned = [item.budget for item in entry.budgets]
    known = [size for size in sizes if size is not None]
    tuned_sizes = [item.parameters for item in entry.budgets]
    _check_near(f"tuning.families.{name}: tuned at budgets", tuned, budgets, unit="FLOPs")
    if known:
        where = f"tuning.families.{name}: tuned at sizes"
        _check_near(where, tuned_sizes, known, unit=f"{record.parameters} parameters")


def _check_near(where: str, tuned: Sequence[float], asked: Sequence[float], *, unit: str) -> None:
    low, high = min(tuned) / FARTHEST, max(tuned) * FARTHEST
    if not any(low <= value <= high for value in asked):
        raise ValueError(
            f"{where} of {span(tuned)} {unit}, and none of the study's ({span(asked)}) is within "
            f"a factor of {FARTHEST:g}; {REMEDY}"
        )


def span(values: Sequence[float]) -> str:
    """Smallest and largest of some numbers as text."""
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
