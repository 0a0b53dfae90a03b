"""What will happen to each run of a study, and why: reused, resumed, new, or run again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cola.errors import SpecError, StorageError, first_of, one_line
from cola.files import read_json, write_atomically
from cola.spec.resources import ResourcesSpec
from orchestration.checkpoint.integrity import NewestCheckpoint, newest_checkpoint
from orchestration.checkpoint.manifest import Cursor
from orchestration.checkpoint.store import open_store
from orchestration.planning.plan import PlannedRun
from orchestration.planning.units import rungs_as_text
from orchestration.state.ledger import LEASE_STALE_SECONDS, Entry, Ledger
from orchestration.state.paths import RunFolder, StudyFolder
from orchestration.state.run_model import damage_of_model

log = logging.getLogger(__name__)

PLAN_REMEDY = "remove it, and `cola run` of its study writes it anew; runs are found by their keys"

# "set aside": its files are damaged, so it is left alone while the others are trained. "left": of a
# rung that this driver does not train.
Action = Literal["reuse", "resume", "start", "busy", "set aside", "left"]
FINGERPRINT = "data_fingerprint"


@dataclass(frozen=True)
class RunDecision:
    """What happens to a planned run; `why` is a clause for people.

    `model_lost`: the run is finished, and its exported model is missing or damaged.
    """

    run: PlannedRun
    action: Action
    why: str
    model_lost: bool = False


def decide(
    plan: Sequence[PlannedRun], ledger: Ledger, study_folder: Path, *, storage: str | None = None
) -> list[RunDecision]:
    """One decision a run, by the ledger, the checkpoints in `storage` and the study's last plan.

    Raises:
        StorageError: the storage cannot be read.
    """
    before = known_plan(study_folder)
    decisions = [
        _decide_one(run, ledger, before.get(slot_of(run)), storage=storage) for run in plan
    ]
    for decision in decisions:
        log.info("%s: %s, %s", decision.run.name, decision.action, decision.why)
    return decisions


def of_rungs(decisions: Sequence[RunDecision], rungs: Collection[int] | None) -> list[RunDecision]:
    """The decisions of a driver that trains the runs of these rungs alone; None: of all."""
    return [
        replace(decision, action="left", why=f"of rung {decision.run.rung}, left to other drivers")
        if rungs is not None
        and decision.run.rung not in rungs
        and decision.action in ("start", "resume", "busy")
        else decision
        for decision in decisions
    ]


def check_rungs(rungs: Collection[int], plan: Sequence[PlannedRun]) -> None:
    """Check that a plan has runs of each of these rungs.

    Raises:
        SpecError: naming those that it has not.
    """
    known = {run.rung for run in plan}
    absent = set(rungs) - known
    if absent:
        raise SpecError(
            f"--rungs {rungs_as_text(rungs)}: the study has no rung {rungs_as_text(absent)}; its "
            f"rungs are {rungs_as_text(known)}"
        )


def _decide_one(
    run: PlannedRun, ledger: Ledger, before: dict[str, Any] | None, *, storage: str | None
) -> RunDecision:
    entry, run_folder = ledger.known_entry(run.key), ledger.run_folder(run.key)
    if entry.state == "unreadable":
        return RunDecision(run, "set aside", entry.reason or "")
    problem = RunFolder(run_folder).problem()
    if problem is not None:
        return RunDecision(run, "set aside", problem)
    if entry.state == "finished":
        return _reuse_or_export_again(run, run_folder, storage)
    silent = ""
    if entry.lease is not None and ledger.is_held(entry):
        if not _seems_silent(ledger, entry):
            return RunDecision(run, "busy", f"being run by {entry.lease.owner}")
        silent = f", {entry.lease.owner}: whether it is, is watched for {LEASE_STALE_SECONDS:g} s"
    ended = entry.reason or {"running": f"its driver died{silent}"}.get(entry.state, entry.state)
    if entry.state != "new":
        return resume_or_start_over(run, checkpoint_of(run_folder, storage), ended)
    changed = changes(before, run) if before else ""
    return RunDecision(run, "start", f"run again because {changed}" if changed else "new")


def _reuse_or_export_again(run: PlannedRun, run_folder: Path, storage: str | None) -> RunDecision:
    """The decision for a finished run, whose exported model may be missing or damaged."""
    damage = damage_of_model(run_folder)
    if damage is None:
        return RunDecision(run, "reuse", "finished already, with the same specification")
    newest = checkpoint_of(run_folder, storage).cursor
    if newest is None:
        ledger = RunFolder(run_folder).ledger
        why = (
            f"finished already, but its exported model {damage} and no checkpoint is left: remove "
            f"{ledger} to train it again from its start"
        )
        return RunDecision(run, "reuse", why, model_lost=True)
    why = (
        f"is finished, but its exported model {damage}: trained again from its checkpoint of step "
        f"{newest.step}"
    )
    return RunDecision(run, "resume", why, model_lost=True)


def _seems_silent(ledger: Ledger, entry: Entry) -> bool:
    """Whether a driver that cannot be seen from here has probably ended.

    By the clocks of this machine and of the storage: for announcements, never for taking a lease.
    """
    if ledger.hold(entry) != "unknown":
        return False
    try:
        written = RunFolder(ledger.run_folder(entry.run_key)).ledger.stat().st_mtime
    except OSError:
        return False
    return time.time() - written > LEASE_STALE_SECONDS


def resume_or_start_over(run: PlannedRun, newest: NewestCheckpoint, ended: str) -> RunDecision:
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
            **({"retry": run.retry} if run.retry else {}),
        }
        for run in plan
    }
    write_atomically(StudyFolder(study_folder).plan, json.dumps(slots, indent=1))


def saved_plan(study_folder: Path) -> dict[str, Any]:
    """The plan of the last `cola run`, by slot; empty where there was none.

    Raises:
        StorageError: it cannot be read, or is no plan.
    """
    path = StudyFolder(study_folder).plan
    slots = read_json(path, remedy=PLAN_REMEDY)
    for name, slot in slots.items():
        values = slot if isinstance(slot, dict) else {}
        texts = all(isinstance(values.get(key), str) for key in ("run_key", "name"))
        if not texts or not isinstance(values.get("params"), dict):
            raise StorageError(f"{path}: {name} is no run of a plan; {PLAN_REMEDY}")
    return slots


def known_plan(study_folder: Path) -> dict[str, Any]:
    """As `saved_plan`, but one that is damaged is reported and passes for none.

    It only names what changed: the run keys decide what is trained.
    """
    try:
        return saved_plan(study_folder)
    except StorageError as error:
        log.warning("%s; what changed since the last `cola run` is not shown", error)
        return {}


def changes(before: dict[str, Any], run: PlannedRun) -> str:
    """At most three settings that differ from the slot's last plan, with both values.

    Where corpus and tokenizer lie changes no result, and so is no cause.
    """
    old, new = before["params"], run.spec.flat(identity=True)
    places = run.spec.flat().keys() - new.keys()
    keys = [
        key
        for key in sorted(old.keys() | new.keys())
        if key not in places and old.get(key) != new.get(key)
    ]
    # Steps and costs follow from settings; they are named only where nothing else changed.
    causes = [key for key in keys if not key.startswith("stages.")] or keys
    # So does the fingerprint from settings of the data.
    if any(key.startswith("data.") and key != "data.seed" for key in causes):
        causes = [key for key in causes if key != FINGERPRINT]
    return first_of([_change(key, old.get(key), new.get(key)) for key in causes])


def _change(key: str, old: str | None, new: str | None) -> str:
    if key == FINGERPRINT and old and new:
        return (
            "the content of corpus or tokenizer, the order of files, or how this release packs and "
            "splits them changed "
            f"({FINGERPRINT} from {old[:12]} to {new[:12]})"
        )
    return f"{key} changed from {old} to {new}"
