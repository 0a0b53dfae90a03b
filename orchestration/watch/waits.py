"""What the runs of a study wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cola.errors import first_of
from cola.study import StudySpec
from orchestration.checkpoint.manifest import verify
from orchestration.cleanup.overview import LEFT
from orchestration.planning.catalog import output_option
from orchestration.planning.plan import PlannedRun
from orchestration.planning.shared_prefixes import PrefixPlan
from orchestration.state.paths import output_root
from orchestration.watch.events import FollowedEvents
from orchestration.watch.followed_run import ACTIVE


class Waits:
    """Reasons of waits, by the states of all runs at one time (by run key)."""

    def __init__(
        self,
        study: StudySpec,
        runs: Sequence[PlannedRun],
        states: Mapping[str, str],
        *,
        prefixes: Mapping[str, PrefixPlan],
        events: FollowedEvents,
    ) -> None:
        self._study, self._states, self._events = study, states, events
        self._prefixes = prefixes
        self._names = {run.key: run.name for run in runs}
        self._active = [run.name for run in runs if states[run.key] in ACTIVE]

    def of(self, run: PlannedRun) -> str | None:
        """What the run waits for; None of one that does not wait."""
        if self._states[run.key] not in ("new", "interrupted", LEFT):
            return None
        trains = f"{first_of(self._active)} train{'s' * (len(self._active) == 1)}"
        if self._active and self._events.is_stopping:
            return f"the study stops and starts nothing more; {trains} until the next checkpoint"
        known = self._events.wait_of(run.name) or self._shared_stage(run)
        if known is not None:
            return known
        if self._active:
            limit = self._study.resources.concurrent_runs
            at_once = f" (resources.concurrent_runs={limit})" if limit is not None else ""
            return f"waits for room: {trains}{at_once}"
        verb = "trains" if self._states[run.key] == "new" else "resumes"
        where = output_option(output_root(self._study))
        return f"no run trains now; `cola run {self._study.name}{where}` {verb} it"

    def _shared_stage(self, run: PlannedRun) -> str | None:
        """The run whose first steps it takes over, while that has not published them."""
        plan = self._prefixes.get(run.key)
        for prefix, publisher in () if plan is None else plan.resumes_from:
            is_to_come = self._states.get(publisher, "finished") != "finished"
            if is_to_come and verify(prefix.folder(output_root(self._study))) is None:
                return (
                    f"waits for {self._names[publisher]}, which trains the first {prefix.step} "
                    "steps that both share"
                )
        return None
