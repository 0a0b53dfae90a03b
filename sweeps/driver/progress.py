"""How a sweep's trials show: lines on the console and in its event log, runs in MLflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from cola.records import SweepFile, Tag, TrialFinished, TrialRequested
from orchestration.cleanup.contents import Thing
from orchestration.driver.attempt import closing_tags, opening_tags
from orchestration.output_mirror.run_mirror import RunMirror
from orchestration.state.event_log import Event, EventLog
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root
from orchestration.tracking.mirror import Mirror, MirroredStudy, state_left
from sweeps.search.arm_search import Search
from sweeps.space.points import PlannedPoint
from sweeps.space.space import describe_point
from sweeps.space.spec import SweepSpec
from sweeps.trials.retries import PROCESS_DIED
from sweeps.trials.trial_spec import with_trial_name
from sweeps.views.live_table import SweepView

log = logging.getLogger(__name__)

# A chosen value: an MLflow that does not answer by then gets the rest from the next call.
MIRROR_SECONDS = 30.0


class TrialProgress:
    """Reports how trials go, and mirrors their runs into MLflow, each once, and into
    the mirror of the output."""

    def __init__(
        self,
        sweep: SweepSpec,
        mirror: Mirror,
        events: EventLog,
        *,
        view: SweepView,
        copies: RunMirror | None = None,
    ) -> None:
        """`copies` takes runs and the sweep's own files to the mirror of its output."""
        thing = Thing("sweep", sweep.name)
        self._copies = copies or RunMirror(None, thing, events, notify=view.note)
        self._sweep, self._mirror, self._events, self._view = sweep, mirror, events, view
        self._run_keys: list[str] = []  # of all trials so far
        self._parent: MirroredStudy | None = None

    def open(self, folder: Path, root: Path, dashboard: str | None) -> None:
        """Start to mirror, under a parent run for the sweep in this folder."""
        files = (folder / SweepFile.SPEC, folder / SweepFile.TRIALS)
        self._parent = MirroredStudy(folder, Ledger(root), self._run_keys, dashboard, files=files)
        self._mirror.start(self._parent)

    def close(self, *, complete: bool) -> list[str]:
        """End the sweep in MLflow; names of runs of which MLflow did not take everything."""
        if self._parent is not None:
            self._parent.state = "finished" if complete else "interrupted"
        unsent = self._mirror.finish(patience_seconds=MIRROR_SECONDS)
        if unsent:
            log.warning("MLflow lacks parts of %d runs", len(unsent))
        return unsent

    def trial_started(self, request: TrialRequested, planned: PlannedPoint) -> None:
        """Report a trial that starts, and follow its runs."""
        for run in planned.runs:
            self._copies.take(with_trial_name(run, request.trial).name, run.key)
        for run in planned.runs:
            self._copies.launched(run.key)
        arm = f"{request.arm}: " if request.arm else ""
        point = f"{describe_point(request.point)}{describe_segment(request)}"
        self._view.note(f"trial {request.trial}: {arm}{point}")
        self._view.started(request, planned)
        name = self._name(request, planned)
        self._events.write(Event.LAUNCHED, name, f"trial {request.trial}")
        self._follow(request, planned)

    def trial_retried(self, request: TrialRequested, planned: PlannedPoint, retry: int) -> None:
        """Report a trial whose process died and that starts in another one."""
        limit = planned.runs[0].resources.max_failures
        self._view.note(f"trial {request.trial}: {PROCESS_DIED}; retry {retry} of {limit}")
        name = self._name(request, planned)
        self._events.write(Event.RETRIED, name, PROCESS_DIED, retry=retry)

    def trial_known(self, request: TrialRequested, planned: PlannedPoint) -> None:
        """Reconcile MLflow with a trial that ended under an earlier driver."""
        self._follow(request, planned)
        self._close_runs(planned)

    def trial_ended(
        self, request: TrialRequested, planned: PlannedPoint, outcome: TrialFinished
    ) -> None:
        """Report the outcome of a trial, and end its runs in MLflow."""
        self._close_runs(planned, outcome.reason)
        for run in planned.runs:
            self._copies.ended(with_trial_name(run, request.trial).name, run.key)
        values = [
            f"{goal.name} {outcome.metrics[goal.name]:.4f}"
            for goal in self._sweep.metrics
            if goal.name in outcome.metrics
        ]
        overhead = outcome.wall_seconds - outcome.working_seconds
        seconds = f"{outcome.wall_seconds:.0f} s, {overhead:.0f} s of them not in training"
        reasons = [outcome.reason] if outcome.reason else []
        self._view.note(
            f"trial {request.trial}: {'; '.join([outcome.state, *values, seconds, *reasons])}"
        )
        self._events.write(outcome.state, self._name(request, planned), outcome.reason)

    def refresh_copies(self, trials: Iterable[tuple[TrialRequested, PlannedPoint]]) -> None:
        """Copy the records of running trials to the mirror, where it is time."""
        self._copies.refresh([run.key for _, planned in trials for run in planned.runs])

    def arm_over(self, arm: Search) -> None:
        """Report an arm that starts no more trials."""
        name = f"arm {arm.arm}" if arm.arm else "sweep"
        self._view.note(f"{name}: no more points ({arm.why_over})")

    @staticmethod
    def _name(request: TrialRequested, planned: PlannedPoint) -> str:
        """The name of a trial in logs: that of its first run."""
        return with_trial_name(planned.runs[0], request.trial).name

    def _follow(self, request: TrialRequested, planned: PlannedPoint) -> None:
        ledger = Ledger(output_root(planned.study))
        for run in planned.runs:
            if run.key not in self._run_keys:
                self._run_keys.append(run.key)
            elif request.leg is None:  # a segment continues a run that was closed before it
                continue
            tags = opening_tags(self._sweep.name, run) | {
                Tag.SWEEP_ARM: request.arm,
                Tag.SWEEP_TRIAL: str(request.trial),
                Tag.SWEEP_POINT: json.dumps(request.point),
            }
            name = with_trial_name(run, request.trial).name
            self._mirror.follow(name, run.spec, ledger.run_folder(run.key), tags=tags)

    def _close_runs(self, planned: PlannedPoint, reason: str | None = None) -> None:
        ledger = Ledger(output_root(planned.study))
        for run in planned.runs:
            entry = ledger.known_entry(run.key)
            if entry.state not in ("new", "unreadable"):
                tags = closing_tags(run, ledger)
                # The workers of a run that was stopped early may leave later: its ledger has no
                # reason yet.
                tags[Tag.STATUS_REASON] = tags[Tag.STATUS_REASON] or reason or ""
                self._mirror.close_run(run.key, state_left(entry), tags)


def describe_segment(request: TrialRequested) -> str:
    """The part of a population that a trial is, in brackets; empty for a trial of whole runs."""
    segment = request.leg
    if segment is None:
        return ""
    after = f", after trial {segment.parent}" if segment.parent is not None else ""
    steps = f"{segment.since:.0%} to {segment.until:.0%} of its steps"
    return f" (member {segment.member}, {steps}{after})"
