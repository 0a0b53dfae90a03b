"""How far a run is, by its journal while it grows, and how long runs still take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cola.records import Metric, NllKind
from cola.study import RunSpec
from orchestration.state.journal import JournalReader, Line
from orchestration.state.last_validation import run_nll_kind
from orchestration.state.paths import RunFolder


@dataclass
class RunProgress:
    """What the journal of a run has said until the last call of `new_lines`.

    `loss` and NLLs are in nats a token; `kind` is that of `nll`.
    """

    spec: RunSpec
    folder: Path
    step: int = 0
    loss: float | None = None
    nll: float | None = None
    test_nll: float | None = None
    kind: NllKind | None = None
    tokens_per_second: float | None = None
    _reader: JournalReader = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._reader = JournalReader(RunFolder(self.folder).journal)

    @property
    def share(self) -> float:
        """Share of the steps that is done, 0 to 1."""
        return self.step / self.spec.steps

    @property
    def unreadable(self) -> int:
        """How many lines of the journal are no records."""
        return self._reader.unreadable

    def new_lines(self) -> list[Line]:
        """Lines that were written since the last call, once what they say is taken over.

        Raises:
            StorageError: the journal cannot be read.
        """
        lines = list(self._reader.new_lines())
        for line in lines:
            if line.kind == "train":
                self.step = line.step
                self.loss = number(line.values.get(Metric.TRAIN_LOSS))
                self.tokens_per_second = number(line.values.get(Metric.TOKENS_PER_SECOND))
            elif line.kind == "evaluation":
                self.nll = number(line.values.get(Metric.NLL))
                self.test_nll = number(line.values.get(Metric.TEST_NLL))
                self.kind = run_nll_kind(self.spec, line.values)
        return lines

    @property
    def flops_left(self) -> float:
        """Executed training FLOPs to its last step."""
        spec = self.spec
        return spec.train_flops_at(spec.steps, "executed") - spec.train_flops_at(
            self.step, "executed"
        )

    @property
    def flops_per_second(self) -> float:
        """Executed FLOP/s by the last throughput, at a token's mean FLOPs; 0: none is known."""
        steps = self.spec.steps
        flops = self.spec.train_flops_at(steps, "executed")
        return (self.tokens_per_second or 0.0) * flops / (steps * self.spec.tokens_per_step)


def seconds_left(
    unfinished: Iterable[RunProgress], training: Iterable[RunProgress]
) -> float | None:
    """Time until the runs are trained, if those to come train as fast in all as those that train
    now; None while none does."""
    rate = sum(run.flops_per_second for run in training)
    return sum(run.flops_left for run in unfinished) / rate if rate > 0 else None


def number(value: object) -> float | None:
    """A number of a journal's line; None of anything else, as what was not finite is a text."""
    return float(value) if isinstance(value, int | float) else None
