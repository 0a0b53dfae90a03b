"""What will happen to each run of a study, and why: reused, resumed, new, or run again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestration.checkpoint import CHECKPOINTS, sharding_of
from orchestration.ledger import Ledger, lease_is_fresh, read_json, write_atomically
from orchestration.mlflow_runs import flat_params
from orchestration.plan import PlannedRun

Action = Literal["reuse", "resume", "start", "busy"]


@dataclass(frozen=True)
class Decision:
    """What to do with a planned run, in a sentence for people."""

    run: PlannedRun
    action: Action
    why: str


def decide(plan: Sequence[PlannedRun], ledger: Ledger, study_folder: Path) -> list[Decision]:
    """One decision a run; reads the ledger and the plan this study had the last time."""
    before = remembered_plan(study_folder)
    return [_decide_one(run, ledger, before.get(slot_of(run))) for run in plan]


def _decide_one(run: PlannedRun, ledger: Ledger, before: dict[str, Any] | None) -> Decision:
    entry = ledger.entry(run.spec.run_key)
    if entry.state == "finished":
        return Decision(run, "reuse", "finished already, with the same specification")
    if lease_is_fresh(entry):
        owner = entry.lease.owner if entry.lease else "another driver"
        return Decision(run, "busy", f"being run by {owner}")
    ended = entry.reason or {"running": "its driver died"}.get(entry.state, entry.state)
    shardings = {sharding_of(f) for f in checkpoints_of(ledger.run_folder(run.spec.run_key))}
    wanted = (run.resources.workers, run.resources.zero_stage)
    if wanted in shardings:
        return Decision(run, "resume", f"goes on from its checkpoint ({ended})")
    others = sorted(sharding for sharding in shardings if sharding is not None)
    if others:
        why = f"its checkpoints are of {others[0][0]} workers at ZeRO {others[0][1]}"
        return Decision(run, "start", f"starts over: {why} ({ended})")
    if entry.state != "new":
        return Decision(run, "start", f"starts over: no checkpoint yet ({ended})")
    changed = changes(before, run) if before else ""
    return Decision(run, "start", f"run again because {changed}" if changed else "new")


def checkpoints_of(run_folder: Path) -> list[Path]:
    """Folders of training checkpoints, whole or not."""
    return sorted((run_folder / CHECKPOINTS).glob("attempt-*/step-*"))


def slot_of(run: PlannedRun) -> str:
    """The run's place in its study, whatever its specification."""
    return f"{run.spec.family}/{run.rung}/{run.spec.seed}"


def remember_plan(plan: Sequence[PlannedRun], study_folder: Path) -> None:
    """Keep the plan so that the next one can say what changed."""
    slots = {
        slot_of(run): {
            "run_key": run.spec.run_key,
            "name": run.name,
            "params": flat_params(run.spec),
        }
        for run in plan
    }
    write_atomically(study_folder / "plan.json", json.dumps(slots, indent=1))


def remembered_plan(study_folder: Path) -> dict[str, Any]:
    """The plan of the last `cola run`, by slot."""
    return dict(read_json(study_folder / "plan.json"))


def changes(before: dict[str, Any], run: PlannedRun) -> str:
    """The settings that differ from the slot's last plan, at most three of them."""
    old, new = before["params"], flat_params(run.spec)
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    # Steps and costs follow from settings; they are named only where nothing else changed.
    causes = [key for key in keys if not key.startswith("stages.")] or keys
    told = [f"{key} changed from {old.get(key)} to {new.get(key)}" for key in causes[:3]]
    more = len(causes) - len(told)
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")
