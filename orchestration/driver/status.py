"""The state of a study's runs as plain rows."""

from __future__ import annotations

from cola.errors import StorageError
from cola.families.registry import definition_of
from cola.records import RATE, Metric
from orchestration.planning.decisions import checkpoint_of
from orchestration.planning.plan import PlannedRun
from orchestration.state.heartbeat import read_beats
from orchestration.state.journal import JournalReader
from orchestration.state.last_validation import run_nll_kind
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder
from orchestration.state.run_model import damage_of_model, model_problem

VARIANT, WORKERS = "variant", "workers"
UNREADABLE_LINES = "unreadable_lines"  # of the journal
PROBLEM = "problem"  # which file is damaged or missing, and the remedy


def run_status(run: PlannedRun, ledger: Ledger, storage: str | None) -> dict[str, object]:
    """One run's row of the status table.

    `checkpoint` is the step from which the run would resume (None: from its start), and the
    workers' rows are their last heartbeats, of a running run only. The state of a run whose files
    are damaged is "unreadable"; its reason names the file and the remedy.
    """
    entry, folder = ledger.known_entry(run.key), ledger.run_folder(run.key)
    problem = entry.reason if entry.state == "unreadable" else RunFolder(folder).problem()
    last: dict[str, object] = {}
    running = entry.state == "running"
    reader = JournalReader(RunFolder(folder).journal)
    kept = None
    if problem is None:
        if entry.state not in ("new", "finished"):
            # Of one that is running, checkpoints may be pruned while they are read.
            kept = checkpoint_of(folder, storage, checksums=not running).cursor
        try:
            for line in reader.new_lines():
                if line.kind != "event":
                    last |= {"step": line.step, **line.values}
        except StorageError as error:
            problem = str(error)
    if problem is None and entry.state == "finished":
        left_out = RunFolder(folder).fetched.exists() and not RunFolder(folder).model.exists()
        damage = None if left_out else damage_of_model(folder, contents=False)
        problem = None if damage is None else model_problem(folder, damage)
    return {
        "run": run.name,
        "family": definition_of(run.spec.family).label,
        VARIANT: run.variant,
        "state": entry.state if problem is None or entry.state == "finished" else "unreadable",
        "step": last.get("step", 0),
        "steps": run.spec.steps,
        "checkpoint": None if kept is None else kept.step,
        "train_loss": last.get(Metric.TRAIN_LOSS),
        "nll_nats_per_token": last.get(Metric.NLL),
        "test_nll_nats_per_token": last.get(Metric.TEST_NLL),
        "nll_kind": None if last.get(Metric.NLL) is None else run_nll_kind(run.spec, last),
        "rate_nats_per_token": last.get(Metric.val_nats(RATE)),
        "attempts": len(entry.attempts),
        "reason": problem or entry.reason,
        PROBLEM: problem,
        UNREADABLE_LINES: reader.unreadable,
        WORKERS: [beat.model_dump() for beat in read_beats(folder)] if running else [],
    }


def unstarted_status(name: str, like: dict[str, object]) -> dict[str, object]:
    """The row of a run that has not begun where only its name is known; it has the columns of
    `like`, another row."""
    return {**dict.fromkeys(like), "run": name, "state": "new", "step": 0, "attempts": 0,
            UNREADABLE_LINES: 0, WORKERS: []}  # fmt: skip
