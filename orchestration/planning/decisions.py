"""What will happen to each run of a study, and why: reused, resumed, new, or run again."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cola.checksums import damage_in
from cola.errors import StorageError, one_line
from cola.files import read_json, write_atomically
from cola.spec.resources import ResourcesSpec
from orchestration.checkpoint.integrity import NewestCheckpoint, newest_checkpoint
from orchestration.checkpoint.manifest import Cursor
from orchestration.checkpoint.store import open_store
from orchestration.planning.plan import PlannedRun
from orchestration.state.ledger import Ledger, lease_is_fresh
from orchestration.state.paths import RunFolder, StudyFolder

log = logging.getLogger(__name__)

Action = Literal["reuse", "resume", "start", "busy"]


@dataclass(frozen=True)
class RunDecision:
    """What happens to a planned run; `why` is a clause for people."""

    run: PlannedRun
    action: Action
    why: str


def decide(
    plan: Sequence[PlannedRun], ledger: Ledger, study_folder: Path, *, storage: str | None = None
) -> list[RunDecision]:
    """One decision a run, by the ledger, the checkpoints in `storage` and the study's last plan.

    Raises:
        StorageError: the storage cannot be read.
    """
    before = saved_plan(study_folder)
    decisions = [
        _decide_one(run, ledger, before.get(slot_of(run)), storage=storage) for run in plan
    ]
    for decision in decisions:
        log.info("%s: %s, %s", decision.run.name, decision.action, decision.why)
    return decisions


def _decide_one(
    run: PlannedRun, ledger: Ledger, before: dict[str, Any] | None, *, storage: str | None
) -> RunDecision:
    entry = ledger.entry(run.key)
    run_folder = ledger.run_folder(run.key)
    if entry.state == "finished":
        damage = damage_of_model(run_folder)
        if damage is None:
            return RunDecision(run, "reuse", "finished already, with the same specification")
        ended = f"finished, but its model cannot be used: {damage}"
        return _resume_or_start_over(run, checkpoint_of(run_folder, storage), ended)
    if lease_is_fresh(entry):
        owner = entry.lease.owner if entry.lease else "another driver"
        return RunDecision(run, "busy", f"being run by {owner}")
    ended = entry.reason or {"running": "its driver died"}.get(entry.state, entry.state)
    if entry.state != "new":
        return _resume_or_start_over(run, checkpoint_of(run_folder, storage), ended)
    changed = changes(before, run) if before else ""
    return RunDecision(run, "start", f"run again because {changed}" if changed else "new")


def damage_of_model(run_folder: Path) -> str | None:
    """Why a finished run's exported model cannot be used; None where it can."""
    model = RunFolder(run_folder).model
    return damage_in(model) if model.is_dir() else f"{model} is missing"


def _resume_or_start_over(run: PlannedRun, newest: NewestCheckpoint, ended: str) -> RunDecision:
    """The decision for a run whose last attempt ended because of `ended`."""
    damaged = [str(step) for step in newest.damaged]
    if newest.cursor is not None:
        instead = f" of step {newest.cursor.step}" if damaged else ""
        resharded = resharding(newest.cursor, run.resources)
        older = f", as the newest one (step {damaged[0]}) is damaged" if damaged else ""
        why = f"resumes from its checkpoint{instead}{resharded}{older} ({ended})"
        return RunDecision(run, "resume", why)
    if damaged:
        all_damaged = f"every checkpoint (step {', '.join(damaged)}) is damaged"
        return RunDecision(run, "start", f"starts over: {all_damaged} ({ended})")
    return RunDecision(run, "start", f"starts over: no checkpoint yet ({ended})")


def resharding(cursor: Cursor, resources: ResourcesSpec) -> str:
    """A clause with a leading comma where the checkpoint's state will be resharded, else nothing.

    An elastic run starts with any number of workers in its range, so none of them is named.
    """
    before = (cursor.world_size, cursor.zero_stage)
    fewest = resources.min_workers or resources.workers
    fits = fewest <= cursor.world_size <= resources.workers
    if fits and cursor.zero_stage == resources.zero_stage:
        return ""
    now = (resources.workers, resources.zero_stage)
    return f", resharded from {_sharding(*before)} to {_sharding(*now)}"


def _sharding(workers: int, zero_stage: int) -> str:
    return f"{workers} {'worker' if workers == 1 else 'workers'} at ZeRO {zero_stage}"


def checkpoint_of(
    run_folder: Path, storage: str | None, *, checksums: bool = True
) -> NewestCheckpoint:
    """The newest valid checkpoint of a run, over all attempts (see `newest_checkpoint`).

    Raises:
        StorageError: the storage cannot be read.
    """
    store = open_store(storage, run_folder)
    try:
        return newest_checkpoint(store, checksums=checksums)
    except OSError as error:
        raise StorageError(
            f"checkpoint.storage={store.shown}: cannot be read ({one_line(error, 200)}); check "
            "that it is there and that its credentials are in the environment"
        ) from None


def slot_of(run: PlannedRun) -> str:
    """The run's slot in its study, independent of its settings: variant/rung/seed."""
    return f"{run.variant}/{run.rung}/{run.spec.seed}"


def save_plan(plan: Sequence[PlannedRun], study_folder: Path) -> None:
    """Write the plan into the study's folder, so that the next one can name what changed."""
    slots = {
        slot_of(run): {
            "run_key": run.key,
            "name": run.name,
            "params": run.spec.flat(),
        }
        for run in plan
    }
    write_atomically(StudyFolder(study_folder).plan, json.dumps(slots, indent=1))


def saved_plan(study_folder: Path) -> dict[str, Any]:
    """The plan of the last `cola run`, by slot; empty where there was none."""
    return dict(read_json(StudyFolder(study_folder).plan))


def changes(before: dict[str, Any], run: PlannedRun) -> str:
    """At most three settings that differ from the slot's last plan, with both values."""
    old, new = before["params"], run.spec.flat()
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    # Steps and costs follow from settings; they are named only where nothing else changed.
    causes = [key for key in keys if not key.startswith("stages.")] or keys
    clauses = [f"{key} changed from {old.get(key)} to {new.get(key)}" for key in causes[:3]]
    more = len(causes) - len(clauses)
    return ", ".join(clauses) + (f" and {more} more" if more > 0 else "")
