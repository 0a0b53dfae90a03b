"""The state of a study's runs as plain rows."""

from __future__ import annotations

from cola.families.registry import definition_of
from cola.records import Metric
from orchestration.planning.decisions import checkpoint_of
from orchestration.planning.plan import PlannedRun
from orchestration.state.heartbeat import read_beats
from orchestration.state.journal import JournalReader
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder

VARIANT, WORKERS = "variant", "workers"


def run_status(run: PlannedRun, ledger: Ledger, storage: str | None) -> dict[str, object]:
    """One run's row of the status table.

    `checkpoint` is the step from which the run would resume (None: from its start), and the
    workers' rows are their last heartbeats, of a running run only.
    """
    entry = ledger.entry(run.key)
    last: dict[str, object] = {}
    running = entry.state == "running"
    unfinished = entry.state not in ("new", "finished")
    folder = ledger.run_folder(run.key)
    kept = None
    if unfinished:  # of one that is running, checkpoints may be pruned while they are read
        kept = checkpoint_of(folder, storage, checksums=not running).cursor
    for line in JournalReader(RunFolder(folder).journal).new_lines():
        if line.kind != "event":
            last |= {"step": line.step, **line.values}
    return {
        "run": run.name,
        "family": definition_of(run.spec.family).label,
        VARIANT: run.variant,
        "state": entry.state,
        "step": last.get("step", 0),
        "steps": run.spec.steps,
        "checkpoint": None if kept is None else kept.step,
        "train_loss": last.get(Metric.TRAIN_LOSS),
        "nll_nats_per_token": last.get(Metric.NLL),
        "attempts": len(entry.attempts),
        "reason": entry.reason,
        WORKERS: [beat.model_dump() for beat in read_beats(folder)] if running else [],
    }
