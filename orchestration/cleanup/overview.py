"""What an output folder holds, for `cola ls`: studies and sweeps with the states of their runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cola.errors import StorageError
from cola.jsonl import LineReader
from cola.records import STUDY_IMPORT, SweepFile
from orchestration.cleanup.contents import Thing, run_keys, things_in
from orchestration.planning.decisions import saved_plan
from orchestration.state.ledger import Entry, Ledger
from orchestration.state.paths import OutputFolder, StudyFolder

LEFT = "left by its driver"  # state of a run that was running and that nobody keeps any more


@dataclass(frozen=True)
class RunLine:
    """A run of a study or sweep. `name`: as commands take it."""

    name: str
    run_key: str
    state: str


@dataclass(frozen=True)
class ThingLine:
    """A study or a sweep: its runs by state, of a sweep the trials that were proposed and that have
    ended, and what keeps its files from being read."""

    kind: str
    name: str
    folder: Path
    states: dict[str, int]
    trials: tuple[int, int] | None = None
    problem: str | None = None

    @property
    def report(self) -> Path | None:
        """Its page, if it is written."""
        page = StudyFolder(self.folder).report_page
        return page if page.is_file() else None

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        asked, ended = self.trials or (None, None)
        return {
            "kind": self.kind,
            "name": self.name,
            "folder": str(self.folder),
            "runs": self.states,
            "trials": None if self.trials is None else {"proposed": asked, "ended": ended},
            "report": None if self.report is None else str(self.report),
            "problem": self.problem,
        }


def overview(root: Path) -> list[ThingLine]:
    """The studies, imported studies and sweeps of an output folder; damaged ones say so."""
    ledger = Ledger(root)
    found = [line_of(root, thing, ledger) for thing in things_in(root)]
    for path in sorted(OutputFolder(root).studies.glob(f"*/{STUDY_IMPORT}")):
        if not StudyFolder(path.parent).spec.is_file():
            found.append(ThingLine("imported study", path.parent.name, path.parent, {}))
    return found


def line_of(root: Path, thing: Thing, ledger: Ledger) -> ThingLine:
    """One study or sweep."""
    folder, kind = root / thing.folder, str(thing.kind)
    if StudyFolder(folder).fetched.is_file():
        kind = f"fetched {kind}"
    try:
        states = Counter(state_of(ledger, key) for key in run_keys(root, thing))
    except StorageError as error:
        return ThingLine(kind, thing.name, folder, {}, problem=str(error))
    found = ThingLine(kind, thing.name, folder, dict(sorted(states.items())))
    return with_trials(found, folder / SweepFile.TRIALS) if thing.kind == "sweep" else found


def runs_of(root: Path, thing: Thing) -> Iterator[RunLine]:
    """The runs that a study or sweep has planned.

    Raises:
        StorageError: its plan, or its log of trials, cannot be read.
    """
    ledger, names = Ledger(root), {}
    if thing.kind == "study":
        slots = saved_plan(root / thing.folder).values()
        names = {str(slot["run_key"]): f"{thing.name}/{slot['name']}" for slot in slots}
    for key in run_keys(root, thing):
        yield RunLine(names.get(key, key), key, state_of(ledger, key))


def state_of(ledger: Ledger, run_key: str) -> str:
    """A run's state; one that nobody keeps any more is no running one."""
    return shown_state(ledger, ledger.known_entry(run_key))


def shown_state(ledger: Ledger, entry: Entry) -> str:
    """As `state_of`, by the run's entry in the ledger."""
    return LEFT if entry.state == "running" and not ledger.is_held(entry) else str(entry.state)


def with_trials(sweep: ThingLine, path: Path) -> ThingLine:
    """The sweep with the trials that its log has proposed and that have ended; lines that cannot be
    read are its problem."""
    reader = LineReader(path)
    events = Counter(str(line.get("event")) for _, line in reader.new_lines())
    count = reader.skipped
    problem = f"{path}: {count} line{'s' * (count != 1)} cannot be read" if count else None
    return replace(sweep, trials=(events["asked"], events["ended"]), problem=problem)
