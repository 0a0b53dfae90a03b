"""Which checkpoints of a run are kept: the last ones, the best, those of evaluation points."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class CheckpointSummary:
    """What the choice depends on. `name` is unique; `whole`: every worker's manifest is there.

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
        """A policy that keeps only the newest of the last ones, for when the disk is full."""
        return replace(self, last=1)


def to_delete(
    checkpoints: Iterable[CheckpointSummary], policy: RetentionPolicy, busy: Collection[str] = ()
) -> list[CheckpointSummary]:
    """The checkpoints that the policy does not keep, the oldest first.

    They never include the newest whole one, nor any of `busy`: names that are being written or
    read, or that are known to be good while newer ones may be torn. They include what a crash left
    of unfinished checkpoints.
    """
    by_age = sorted(checkpoints, key=lambda item: (item.step, item.attempt))
    whole = [item for item in by_age if item.whole]
    keep = {item.name for item in whole[-policy.last :]} | set(busy) | asked_for(whole, policy)
    return [item for item in by_age if item.name not in keep]


def surplus_of_finished(
    checkpoints: Iterable[CheckpointSummary], policies: Iterable[RetentionPolicy]
) -> list[CheckpointSummary]:
    """Of a finished run, the checkpoints that no policy names for more than a restart: all but
    those at evaluation points, and the best, where they were asked for."""
    found = list(checkpoints)
    whole = [item for item in found if item.whole]
    keep = {name for policy in policies for name in asked_for(whole, policy)}
    return [item for item in found if item.name not in keep]


def asked_for(whole: Iterable[CheckpointSummary], policy: RetentionPolicy) -> set[str]:
    """Names of the whole checkpoints that stay whatever comes after them."""
    found = list(whole)
    keep = {item.name for item in found if item.evaluation_point} if policy.points else set()
    # Of equal scores the later one wins: more training went into it.
    scores = [
        (item.validation_nll, -item.step, -item.attempt, item.name)
        for item in found
        if item.validation_nll is not None
    ]
    if policy.best and scores:
        keep.add(min(scores)[-1])
    return keep
