"""What is seen of a sweep: lines on the console and in its event log, runs in MLflow under one
parent."""

from __future__ import annotations

import json
from collections.abc import Callable

from cola.records import Tag, TrialFinished, TrialRequested
from orchestration.driver.attempt import closing_tags, opening_tags
from orchestration.state.event_log import Event, EventLog
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root
from orchestration.tracking.mirror import Mirror, state_left
from sweeps.search.arm_search import Search
from sweeps.space.points import PlannedPoint
from sweeps.space.space import describe_point
from sweeps.space.spec import MetricGoal
from sweeps.trials.retries import PROCESS_DIED
from sweeps.trials.trial import with_trial_name


class TrialProgress:
    """Mirrors the runs of trials, each once, and says how trials go."""

    def __init__(
        self, sweep: str, goals: list[MetricGoal], mirror: Mirror, keys: list[str],
        say: Callable[[str], None], events: EventLog,
    ) -> None:  # fmt: skip
        """`keys` grows with the run keys of all trials: those that the mirror counts."""
        self._sweep, self._goals, self._mirror = sweep, goals, mirror
        self._keys, self._say, self._events = keys, say, events

    def started(self, asked: TrialRequested, candidate: PlannedPoint) -> None:
        """A trial starts: its runs are followed from now on."""
        arm = f"{asked.arm}: " if asked.arm else ""
        self._say(
            f"trial {asked.trial}: {arm}{describe_point(asked.point)}{describe_segment(asked)}"
        )
        self._events.write(Event.LAUNCHED, self._name(asked, candidate), f"trial {asked.trial}")
        self._follow(asked, candidate)

    def again(self, asked: TrialRequested, candidate: PlannedPoint, number: int) -> None:
        """The trial's process died; it is taken up again."""
        limit = candidate.runs[0].resources.max_failures
        self._say(f"trial {asked.trial}: {PROCESS_DIED}; retry {number} of {limit}")
        self._events.write(Event.RETRIED, self._name(asked, candidate), PROCESS_DIED, retry=number)

    def known(self, asked: TrialRequested, candidate: PlannedPoint) -> None:
        """A trial of an earlier driver: MLflow may lack what it left."""
        self._follow(asked, candidate)
        self._close(candidate)

    def ended(self, asked: TrialRequested, candidate: PlannedPoint, ended: TrialFinished) -> None:
        """A trial ended."""
        self._close(candidate, ended.reason)
        values = [
            f"{goal.name} {ended.metrics[goal.name]:.4f}"
            for goal in self._goals
            if goal.name in ended.metrics
        ]
        beyond = ended.wall_seconds - ended.working_seconds
        took = f"{ended.wall_seconds:.0f} s, {beyond:.0f} s of them not in training"
        said = [ended.state, *values, took, *([ended.reason] if ended.reason else [])]
        self._say(f"trial {asked.trial}: {'; '.join(said)}")
        self._events.write(ended.state, self._name(asked, candidate), ended.reason)

    def arm_over(self, arm: Search) -> None:
        """No more points of an arm."""
        name = f"arm {arm.arm}" if arm.arm else "sweep"
        self._say(f"{name}: no more points ({arm.why_over})")

    @staticmethod
    def _name(asked: TrialRequested, candidate: PlannedPoint) -> str:
        """Of the trial in logs: that of its first run."""
        return with_trial_name(candidate.runs[0], asked.trial).name

    def _follow(self, asked: TrialRequested, candidate: PlannedPoint) -> None:
        ledger = Ledger(output_root(candidate.study))
        for run in candidate.runs:
            key = run.key
            if key not in self._keys:
                self._keys.append(key)
            elif asked.leg is None:  # a leg goes on with a run that was closed after the one before
                continue
            tags = opening_tags(self._sweep, run) | {
                Tag.SWEEP_ARM: asked.arm,
                Tag.SWEEP_TRIAL: str(asked.trial),
                Tag.SWEEP_POINT: json.dumps(asked.point),
            }
            name = with_trial_name(run, asked.trial).name
            self._mirror.follow(name, run.spec, ledger.run_folder(key), tags=tags)

    def _close(self, candidate: PlannedPoint, reason: str | None = None) -> None:
        ledger = Ledger(output_root(candidate.study))
        for run in candidate.runs:
            key = run.key
            entry = ledger.entry(key)
            if entry.state != "new":
                tags = closing_tags(run, ledger)
                # A run that was stopped early may be about to leave: its ledger says nothing yet.
                tags[Tag.STATUS_REASON] = tags[Tag.STATUS_REASON] or reason or ""
                self._mirror.close_run(key, state_left(entry), tags)


def describe_segment(asked: TrialRequested) -> str:
    """Which part of a population a trial is; nothing of an ordinary one."""
    leg = asked.leg
    if leg is None:
        return ""
    after = f", after trial {leg.parent}" if leg.parent is not None else ""
    return f" (member {leg.member}, {leg.since:.0%} to {leg.until:.0%} of its steps{after})"
