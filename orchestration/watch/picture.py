"""What the page shows, of a study as of a sweep: plain values that its script draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cola.records import Metric
from orchestration.watch.curves import RunCurves, as_json

CellKind = Literal["text", "number", "share"]
# How the state of a row, or of all, is marked. Its word is shown too.
Tone = Literal["done", "active", "waiting", "ended early", "trouble"]


@dataclass(frozen=True)
class ColumnHead:
    """A column of the table; `share` cells are 0 to 1, the others texts."""

    name: str
    kind: CellKind = "text"


@dataclass(frozen=True)
class Row:
    """A run or a trial. `why` is why it waits, or ended as it did."""

    id: str
    name: str
    tone: Tone
    state: str
    cells: Sequence[str | float | None]
    why: str | None = None


@dataclass(frozen=True)
class Curve:
    """The curves of a row: of a group that shares a colour, at the group's place."""

    id: str
    name: str
    group: str
    losses: Sequence[Any]
    evaluations: Sequence[Any]
    stride: int  # values that a point of `losses` is the mean of, at most


@dataclass(frozen=True)
class EventLine:
    """A line of the event log; `time` in Unix seconds by its writer's clock."""

    time: float
    event: str
    run: str | None
    reason: str | None


@dataclass(frozen=True)
class Picture:
    """All of a study or sweep at one time.

    `facts` are pairs of a label and a sentence; `ends` is when it is expected to end (Unix seconds;
    None: not known). `metric` is what evaluations measure, in words, and `compute` the convention
    of FLOPs.
    """

    kind: Literal["study", "sweep"]
    name: str
    folder: str
    tone: Tone
    state: str
    headline: str
    ends: float | None
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    columns: Sequence[ColumnHead]
    rows: Sequence[Row]
    curves: Sequence[Curve]
    metric: str
    compute: str
    events: Sequence[EventLine]
    events_left_out: int

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def in_words(metric: str) -> str:
    """The name of a metric for people; one without a name in words is shown as MLflow has it."""
    return "validation NLL" if metric == Metric.NLL else metric


def curve_of(id: str, name: str, group: str, found: RunCurves) -> Curve:
    """The curves of a row."""
    return Curve(
        id, name, group, [as_json(each.points()) for each in found.losses],
        as_json(found.evaluations), max(each.stride for each in found.losses),
    )  # fmt: skip


def drawn_notes(curves: Sequence[Curve], not_finite: dict[str, int]) -> list[str]:
    """Sentences on what the curves leave out or average."""
    notes = [f"{name}: {count} logged losses are not finite and not drawn"
             for name, count in not_finite.items() if count]  # fmt: skip
    stride = max((curve.stride for curve in curves), default=1)
    if stride > 1:
        notes.append(f"points of training losses are means of up to {stride} logged ones")
    return notes
