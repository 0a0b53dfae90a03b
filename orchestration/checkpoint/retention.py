"""Which checkpoints of a run are kept: the last ones, the best one, those of evaluation points."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class CheckpointSummary:
    """What the choice looks at. `name` is unique; `whole` means every worker's manifest is there.

    `validation_nll` is in nats per token, None where the step was not evaluated.
    """

    name: str
    attempt: int
    step: int
    whole: bool
    validation_nll: float | None = None
    evaluation_point: bool = False


@dataclass(frozen=True)
class RetentionPolicy:
    """Keep the last `last`; with `best` the one of the lowest NLL; with `points` all evaluated."""

    last: int
    best: bool = False
    points: bool = False

    def sparing(self) -> RetentionPolicy:
        """The same with only the newest of the last ones: where room is short."""
        return replace(self, last=1)


def to_delete(
    checkpoints: Iterable[CheckpointSummary], policy: RetentionPolicy, busy: Collection[str] = ()
) -> list[CheckpointSummary]:
    """What the policy does not keep, the oldest first.

    Never the newest whole one, and none of `busy`: names that are being written or read, or that
    are known to be good while newer ones may be torn. Parts of checkpoints (what a crash left) go.
    """
    found = sorted(checkpoints, key=lambda item: (item.step, item.attempt))
    whole = [item for item in found if item.whole]
    keep = {item.name for item in whole[-policy.last :]} | set(busy)
    if policy.points:
        keep |= {item.name for item in whole if item.evaluation_point}
    scored = [item for item in whole if item.validation_nll is not None]
    if policy.best and scored:
        # Of equal ones the later: more training went into it.
        keep.add(min(scored, key=_rank).name)
    return [item for item in found if item.name not in keep]


def _rank(item: CheckpointSummary) -> tuple[float, int, int]:
    assert item.validation_nll is not None
    return item.validation_nll, -item.step, -item.attempt
