"""Training checkpoints of finished runs: what may go once the exported model is good."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cola.records import EXPORTED_NLL_TOLERANCE
from cola.spec.resources import CheckpointSpec
from orchestration.checkpoint.retention import RetentionPolicy, surplus_of_finished
from orchestration.checkpoint.store import CheckpointStore, StoredCheckpoint, open_store
from orchestration.state.last_validation import exported_difference
from orchestration.state.run_model import damage_of_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surplus:
    """Checkpoints of a finished run that may be removed, in their store; or why none may be."""

    store: CheckpointStore
    checkpoints: tuple[StoredCheckpoint, ...] = ()
    kept: int = 0  # others, that were asked for
    why_kept: str | None = None

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(sum(each.files.values()) for each in self.checkpoints)

    def remove(self) -> None:
        """Delete them.

        Raises:
            OSError: the store does not let go of one.
        """
        for each in self.checkpoints:
            log.info("removing %s of %s", each.name, self.store.shown)
            self.store.delete(each)


def surplus_of(
    run_folder: Path, storage: str | None, choices: Sequence[CheckpointSpec], *, asked: bool
) -> Surplus:
    """What may go of the checkpoints of a finished run, by what all studies that have it chose.

    A model that was never compared with the validated one is good enough only where a person has
    `asked` for the removal; its files are then compared with their checksums.

    Raises:
        OSError: the store cannot be read.
        ColaError: the store cannot be opened, or the run's journal cannot be read.
    """
    store = open_store(storage, run_folder)
    stored = {each.name: each for each in store.stored()}
    if not stored:
        return Surplus(store)
    if any(choice.keep_finished for choice in choices):
        return Surplus(store, kept=len(stored), why_kept="checkpoint.keep_finished")
    problem = export_problem(run_folder, asked=asked)
    if problem is not None:
        return Surplus(store, kept=len(stored), why_kept=problem)
    policies = [RetentionPolicy(each.keep, each.keep_best, each.keep_points) for each in choices]
    surplus = surplus_of_finished(map(store.summary, stored.values()), policies)
    gone = tuple(stored[each.name] for each in surplus)
    return Surplus(store, gone, kept=len(stored) - len(gone))


def export_problem(run_folder: Path, *, asked: bool) -> str | None:
    """Why a finished run's checkpoints are still needed beside its model, as a clause."""
    damage = damage_of_model(run_folder, contents=asked)
    if damage is not None:
        return f"its exported model {damage}"
    difference = exported_difference(run_folder)
    if difference is None and not asked:
        return "its exported model was not compared with the validated one"
    if difference is not None and not abs(difference) <= EXPORTED_NLL_TOLERANCE:
        return f"its exported model's NLL differs from the validated one by {difference:+.4f}"
    return None


def remove_surplus(
    run_folder: Path, choice: CheckpointSpec, others: Sequence[CheckpointSpec] = ()
) -> Surplus:
    """Remove what a run that has just finished needs no more, by the choice of the study that
    trained it, where it lies, and of `others` that have it too.

    Raises:
        OSError: the store cannot be read or written.
        ColaError: it cannot be opened, or the run's journal cannot be read.
    """
    surplus = surplus_of(run_folder, choice.storage, [choice, *others], asked=False)
    surplus.remove()
    if surplus.why_kept is not None:
        log.info("%s: its checkpoints stay: %s", run_folder.name, surplus.why_kept)
    return surplus
