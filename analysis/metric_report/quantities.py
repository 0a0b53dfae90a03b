"""Metrics that can be fitted: what values they may have, and which are the better ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from analysis.metric_laws.bounded import Range
from analysis.plotting.metric_names import metric_words
from cola.errors import SpecError, one_line
from cola.records import FEW_SHOT_TASKS, IN_DOMAIN_TASKS, Metric

# What `cola report --metric` calls the accuracies of several tasks, with their average.
GROUPS = {"few-shot": FEW_SHOT_TASKS[:8], "in-domain": IN_DOMAIN_TASKS}
AVERAGE = "average"
NEAR = 0.85  # of a name to a recorded one, by difflib's ratio; a chosen value


@dataclass(frozen=True)
class Quantity:
    """A metric with its range: None for losses, which are above 0, without an end, and better the
    lower they are. `error`, `chance` and `items`: metrics that its standard error, the value of
    guessing and the number of items are recorded as. `parts`: metrics that it is the mean of.
    """

    key: str
    title: str
    unit: str
    range: Range | None
    error: str | None = None
    chance: str | None = None
    items: str | None = None
    parts: tuple[Quantity, ...] = ()

    @property
    def scale(self) -> float:
        """Of values as they are shown, in `unit`."""
        return scale_and_digits(self.unit)[0]

    def shown(self, value: float) -> str:
        """A value with its unit."""
        gap = "" if self.unit == "%" else " "
        return f"{self.number(value)}{gap}{self.unit}".rstrip()

    def number(self, value: float) -> str:
        """A value in `unit`, without it."""
        return number_text(value, self.unit)


# How values are shown: times what, and with how many decimals. Losses as they are, with three.
UNITS = {"%": (100.0, 1), "BrierLM": (1.0, 2), "Brier, times 100": (100.0, 2), "chrF": (1.0, 1)}


def scale_and_digits(unit: str) -> tuple[float, int]:
    """What values in a unit are multiplied by to be shown, and their decimals."""
    return UNITS.get(unit, (1.0, 3))


def number_text(value: float, unit: str) -> str:
    """A metric's value in its unit, without it."""
    scale, digits = scale_and_digits(unit)
    return f"{scale * value:.{digits}f}"


SHARE, PER_CENT = Range(0.0, 1.0), Range(0.0, 100.0)


@dataclass(frozen=True)
class _Kind:
    """Metrics by a pattern of their names. A metric of a task has its error, chance and count in
    the same task, under these names."""

    pattern: str
    unit: str
    range: Range | None = None
    error: str | None = None
    chance: str | None = None
    items: str | None = None


# The first pattern that a name matches counts. What has no better direction by itself (a share of
# distinct n-grams, the nats that a reference gives to a text) is not here.
KINDS = (
    _Kind("eval/*/accuracy", "%", SHARE, "accuracy_standard_error", "chance", "items"),
    _Kind("eval/*/choice_accuracy", "%", SHARE, None, "chance", "items"),
    _Kind("eval/*/first_token_accuracy", "%", SHARE, items="items"),
    _Kind("eval/*/valid", "%", SHARE, items="items"),
    _Kind("eval/*/f1", "%", SHARE),
    _Kind("eval/*/mauve", "%", SHARE),
    _Kind("eval/*/mixture_accuracy", "%", SHARE),
    _Kind("eval/*/draw_accuracy", "%", SHARE),
    _Kind("eval/*/first_token_draw_accuracy", "%", SHARE),
    _Kind(
        "eval/*/topic_agreement",
        "%",
        SHARE,
        "topic_agreement_standard_error",
        "topic_chance",
        "items",
    ),
    # A score that beats no guess is below 0, and the guess of equal probabilities nearly 0.
    _Kind("eval/*/brierlm", "BrierLM", PER_CENT),
    _Kind("eval/*/brier_?", "Brier, times 100", SHARE),
    _Kind("eval/*/chrf", "chrF", PER_CENT),
    _Kind("continuation/*accuracy", "%", SHARE),
    _Kind("continuation/chrf", "chrF", PER_CENT),
    _Kind("*/nll_nats_per_token", "nats a token", error="nll_standard_error"),
    _Kind("*/excess_nats_per_token", "nats a token", error="excess_standard_error"),
    _Kind("*/bits_per_byte", "bits per byte"),
    _Kind("eval/*/word_nats", "nats a word"),
)
# Numbers of metrics that say how well another one is known, or how many items it rests on.
BESIDE = ("*standard_error", "*/chance", "*/topic_chance", "*/items")


def quantity(key: str) -> Quantity | None:
    """The metric by its name in MLflow; None where its range or direction is not known."""
    if any(fnmatchcase(key, pattern) for pattern in BESIDE):
        return None
    kind = next((kind for kind in KINDS if fnmatchcase(key, kind.pattern)), None)
    if kind is None:
        return None
    folder = key.rpartition("/")[0]
    beside = [
        None if name is None else f"{folder}/{name}"
        for name in (kind.error, kind.chance, kind.items)
    ]
    error, chance, items = beside
    return Quantity(key, title(key), kind.unit, kind.range, error, chance, items)


def title(key: str) -> str:
    """A metric's name for people."""
    found = Metric.task_and_name(key)
    if found is None:
        return metric_words(key)
    task, name = found
    return task if name == "accuracy" else f"{task}, {name.replace('_', ' ')}"


def quantities(names: Sequence[str], recorded: Iterable[str]) -> tuple[list[Quantity], list[str]]:
    """What was asked for, in its order, of the metrics that a study's finished runs have; and what
    a group lacks. A task's name stands for its accuracy, and the end of a name for the only metric
    that ends so.

    Raises:
        SpecError: a metric that no run has, that has no range, or that is named twice.
    """
    known, found, notes = sorted(set(recorded)), list[Quantity](), list[str]()
    for name in names:
        if name in GROUPS:
            of_group, missing = _group(name, known)
            found += of_group
            notes += missing
        else:
            found.append(_one(name, known))
    keys = [each.key for each in found]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise SpecError(f"--metric {twice}: asked for twice; name it once")
    return found, notes


def _group(name: str, known: Sequence[str]) -> tuple[list[Quantity], list[str]]:
    tasks = [task for task in GROUPS[name] if Metric.accuracy(task) in known]
    if not tasks:
        raise SpecError(
            f"--metric {name}: no finished run has an accuracy on any of "
            f"{', '.join(GROUPS[name])}; evaluate the runs on them (`cola evaluate RUN --tasks "
            f"{name}`)"
        )
    parts = tuple(found for task in tasks if (found := quantity(Metric.accuracy(task))))
    scored = [
        task
        for task in GROUPS[name]
        if task not in ("likelihood", "predictive", "unconditional", "speed")
    ]
    missing = [task for task in scored if task not in tasks]
    notes = [f"{name}: no run was scored on {', '.join(missing)}"] if missing else []
    if len(parts) == 1:
        return list(parts), notes
    average = replace(
        parts[0], key=f"{name}/{AVERAGE}", title=f"average of {len(parts)} tasks", parts=parts
    )
    return [*parts, average], notes


def _one(name: str, known: Sequence[str]) -> Quantity:
    key = name if "/" in name else Metric.accuracy(name)
    ending = [each for each in known if name and "/" not in name and each.endswith(f"/{name}")]
    key = ending[0] if key not in known and len(ending) == 1 else key
    if key in known and (found := quantity(key)) is not None:
        return found
    usable = [each for each in known if quantity(each) is not None]
    there = one_line(", ".join([*GROUPS, *usable]))
    if name in known or key in known:
        raise SpecError(
            f"--metric {name}: neither a range of its values nor which are better is known, so no "
            f"law can be fitted to it; there are {there}"
        )
    near = difflib.get_close_matches(key, usable, n=1, cutoff=NEAR)
    hint = f"did you mean {near[0]}? " if near and name else ""
    raise SpecError(f"--metric {name}: no finished run has it; {hint}There are {there}")
