"""One run as its files show it: its state, how far it is, its curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cola.study import RunSpec
from orchestration.cleanup.overview import LEFT, shown_state
from orchestration.state.heartbeat import read_beats
from orchestration.state.ledger import Entry, Ledger
from orchestration.state.paths import RunFolder
from orchestration.state.run_progress import RunProgress
from orchestration.watch.curves import RunCurves
from orchestration.watch.picture import Tone

# States of the page that the ledger does not have.
STARTING, TRAINING = "starting", "training"
NOT_BEGUN, FINISHING = "not begun", "finishing"
RUNNING, STOPPING = "running", "stopping"  # of a study or sweep
ACTIVE = (STARTING, TRAINING)
TONES: dict[str, Tone] = {
    "new": "waiting",
    STARTING: "active",
    TRAINING: "active",
    "finished": "done",
    "interrupted": "ended early",
    LEFT: "trouble",
    "failed": "trouble",
    "diverged": "trouble",
    "unreadable": "trouble",
}


@dataclass
class FollowedRun:
    """A run that is read again and again; `problem` names a file that keeps it from being read."""

    spec: RunSpec
    folder: Path
    metric: str
    limit: int
    progress: RunProgress = field(init=False)
    curves: RunCurves = field(init=False)

    def __post_init__(self) -> None:
        self.progress = RunProgress(self.spec, self.folder)
        self.curves = RunCurves(self.spec, self.metric, limit=self.limit)

    def read(self) -> None:
        """Take in what its journal has since the last call.

        Raises:
            StorageError: it cannot be read.
        """
        for line in self.progress.new_lines():
            self.curves.add(line)


def state_of(entry: Entry, ledger: Ledger) -> str:
    """A run's state: of one that a driver keeps, whether its workers are there; of one that nobody
    keeps any more, that it was left.

    A driver of another machine is taken to live until its lease has not changed for as long as
    makes it stale.
    """
    state = shown_state(ledger, entry)
    if state != "running":
        return state
    beats = read_beats(ledger.run_folder(entry.run_key), len(entry.attempts))
    return TRAINING if beats else STARTING


def shown_as(state: str, share: float) -> str:
    """A run's state in the page's words: after its last step it is measured and exported."""
    if state == TRAINING and share >= 1:
        return FINISHING
    return NOT_BEGUN if state == "new" else state


def as_it_ended(entry: Entry, state: str) -> Entry:
    """The entry, of a run that its driver left without the time since then."""
    return entry.model_copy(update={"state": "interrupted"}) if state == LEFT else entry


def problem_of(entry: Entry, folder: Path) -> str | None:
    """What keeps a run's files from being read, with its remedy; None where nothing does."""
    return entry.reason if entry.state == "unreadable" else RunFolder(folder).problem()
