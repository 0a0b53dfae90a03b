"""Launches the runs of a study side by side, follows them, and says how each ended."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial

from cola.data import PreparedData
from cola.errors import StorageError
from cola.records import Tag
from cola.study import StudySpec
from orchestration.checkpoint.manifest import verify
from orchestration.cluster.processes import free_dead_groups
from orchestration.cluster.queue_client import ClusterQueue
from orchestration.driver.attempt import (
    assignment_of,
    closing_tags,
    open_attempt,
    opening_tags,
    outcome_of,
)
from orchestration.driver.launch_queue import LaunchQueue
from orchestration.driver.monitor import RunWatch, look_after
from orchestration.driver.progress import StudyView
from orchestration.driver.ray_trainer import ControllerDiedError, fit_run
from orchestration.planning.costs import run_costs
from orchestration.planning.decisions import Decision
from orchestration.planning.divergence_retry import next_try
from orchestration.planning.plan import PlannedRun
from orchestration.planning.rates import measured_rates
from orchestration.planning.shared_prefixes import Sharing, shared_beginnings
from orchestration.planning.units import duration
from orchestration.state.accounting import accelerator_hours
from orchestration.state.event_log import EventLog
from orchestration.state.ledger import (
    LEASE_REFRESH_SECONDS,
    LeaseHeldError,
    LeaseLostError,
    Ledger,
    State,
)
from orchestration.state.paths import RunFolder, output_root, study_folder
from orchestration.tracking.mirror import DRIVER_DIED, Mirror, state_left

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


class Launcher:
    """The state of a study while it runs."""

    def __init__(
        self,
        study: StudySpec,
        plan: Sequence[PlannedRun],
        data: PreparedData,
        ledger: Ledger,
        mirror: Mirror,
        view: StudyView,
        joined: bool,
    ) -> None:
        """`joined`: on a cluster that others share, whose nodes may be taken away."""
        self._joined = joined
        self.study, self.data, self.ledger = study, data, ledger
        self.mirror, self.view = mirror, view
        self.launched = 0
        self.stopping = threading.Event()
        self._waiting: list[PlannedRun] = []
        self._running: dict[Future[None], PlannedRun] = {}
        self._watches: dict[str, RunWatch] = {}
        self._lost: set[str] = set()  # keys of running runs that another driver has taken over
        self._retries: Counter[str] = Counter()
        self._launched_at: dict[str, float] = {}
        self._rates = measured_rates(output_root(study))
        self._sharing = shared_beginnings(plan)
        self.current_keys = [run.key for run in plan]
        self._resources = {run.key: run.resources for run in plan}
        self.events = EventLog(study_folder(study))
        self._refreshed = time.time()

    def admit(self, decision: Decision) -> None:
        """Show a run; mirror what earlier drivers left of it (MLflow may lack it, or believe that
        it still runs)."""
        run = decision.run
        folder = self.ledger.run_folder(run.key)
        self.view.add(run, folder, decision.action)
        entry = self.ledger.entry(run.key)
        if decision.action != "busy" and entry.state != "new":
            tags = self._closing_tags(run)
            if entry.state == "running":
                tags[Tag.STATUS_REASON] = DRIVER_DIED
            self.mirror.follow(run.name, run.spec, folder, tags=opening_tags(self.study.name, run))
            self.mirror.close_run(run.key, state_left(entry), tags)

    def run(self, todo: Sequence[PlannedRun], queue: ClusterQueue) -> None:
        """Launch the runs as the cluster's queue admits them, and wait for all of them."""
        self._waiting = list(todo)
        launches = LaunchQueue(self.study, queue, self.view, self.events, self._planned_seconds)
        with self.view.live(), ThreadPoolExecutor(len(todo)) as pool, closing(launches):
            while self._running or (self._waiting and not self.stopping.is_set()):
                self._launch_admitted(launches, pool)
                if not self._running:
                    time.sleep(POLL_SECONDS)
                done, _ = wait(self._running, POLL_SECONDS, FIRST_COMPLETED)
                for future in done:
                    self._ended(self._running.pop(future), future.exception())
                self._watch()
                self._refresh_leases()
                self.view.refresh(self.mirror.trouble)

    def _launch_admitted(self, launches: LaunchQueue, pool: ThreadPoolExecutor) -> None:
        """Launch what may start now."""
        if self._waiting and self._spent():
            self._refuse(self._waiting)
            self._waiting = []
        stopping = self.stopping.is_set()
        busy = {run.key for run in (*self._waiting, *self._running.values())}
        ready = [] if stopping else [run for run in self._waiting if self._ready(run, busy)]
        admitted = launches.admitted(ready, self._running.values())
        for run in ready:
            if run.key in admitted and not self._spent():
                self._waiting = [other for other in self._waiting if other.key != run.key]
                self._launch(run, pool)
        self._waiting = launches.kept(self._waiting)

    def _ready(self, run: PlannedRun, busy: set[str]) -> bool:
        """Whether none of `busy` is about to train a beginning that this run can take."""
        root = output_root(self.study)
        return all(
            provider not in busy or verify(beginning.folder(root)) is not None
            for beginning, provider in self._sharing[run.key].takes
        )

    def _spent(self) -> bool:
        """Whether the study has taken the accelerator hours that it may."""
        limit = self.study.resources.max_accelerator_hours
        if limit is None:
            return False
        runs = ((self.ledger.entry(key), needs) for key, needs in self._resources.items())
        return accelerator_hours(runs, time.time()) >= limit

    def _refuse(self, waiting: Sequence[PlannedRun]) -> None:
        limit = self.study.resources.max_accelerator_hours
        why = f"resources.max_accelerator_hours={limit:g} are spent"
        self.view.note(f"{why}: {len(waiting)} runs are not started")
        for run in waiting:
            self.events.write("not started", run.name, why)

    def request_stop(self) -> None:
        """Ask every running run to save and leave; nothing new starts."""
        self.stopping.set()
        self.events.write("stop requested")
        for run in self._running.values():
            if self.ledger.holds(run.key):  # the file is the workers' of whatever attempt is newest
                RunFolder(self.ledger.run_folder(run.key)).stop.touch()

    def _launch(self, run: PlannedRun, pool: ThreadPoolExecutor) -> None:
        key = run.key
        try:
            entry = open_attempt(run, self.ledger, self.data.folder)
        except LeaseHeldError as error:
            self.view.event(run, f"skipped: {error}")
            self.events.write("skipped", run.name, str(error))
            return
        folder = self.ledger.run_folder(key)
        self.mirror.follow(run.name, run.spec, folder, tags=opening_tags(self.study.name, run))
        self._watches[key] = RunWatch(folder, len(entry.attempts))
        assignment = assignment_of(
            run,
            self.study,
            study_folder(self.study),
            self.data.folder,
            len(entry.attempts),
            self._sharing[key],
            self._joined,
        )
        self._running[pool.submit(fit_run, assignment)] = run
        self.launched += 1
        self._launched_at[key] = time.monotonic()
        self.view.started(run)
        self.events.write("launched", run.name, f"attempt {len(entry.attempts)}")

    def _watch(self) -> None:
        if self._retries:
            free_dead_groups()
        for run in self._running.values():
            say = partial(self.view.event, run)
            look_after(run, self._watches[run.key], self.events, say)

    def _ended(self, run: PlannedRun, error: BaseException | None) -> None:
        key = run.key
        self._watches.pop(key)
        ending = self._closed(run, error)
        if ending is None:
            return
        state, reason = ending
        if isinstance(error, ControllerDiedError) and self._again(run, str(error)):
            return
        if state == "diverged":
            self._lower_rate(run)
        self.mirror.close_run(key, state, self._closing_tags(run))
        self.view.ended(run, state, reason)
        self.events.write(state, run.name, reason)
        if state == "finished":
            took, planned = self._wall_seconds(run), self._planned_seconds(run)
            self.view.event(run, f"took {duration(took)}, the plan said {duration(planned)}")

    def _closed(
        self, run: PlannedRun, error: BaseException | None
    ) -> tuple[State, str | None] | None:
        """How the attempt ended, and why, once the ledger has it; None where another driver has
        the run."""
        if run.key in self._lost:
            self._lost.remove(run.key)
            return None
        state, reason = outcome_of(self.ledger.run_folder(run.key), error)
        try:
            self.ledger.close(run.key, state, reason)
        except LeaseLostError as lost:
            self._lose(run, lost)
            self._lost.remove(run.key)
            return None
        return state, reason

    def _again(self, run: PlannedRun, reason: str) -> bool:
        """Queue a run once more whose end was not its own fault, if it may try again."""
        self._retries[run.key] += 1
        number, limit = self._retries[run.key], run.resources.max_failures
        if self.stopping.is_set() or number > limit:
            return False
        self.view.event(run, f"{reason}; retry {number} of {limit}")
        self.events.write("retried", run.name, reason, retry=number)
        self._waiting.insert(0, run)
        return True

    def _lower_rate(self, run: PlannedRun) -> None:
        """Queue a diverged run's next try at a lower rate, if the study allows one."""
        following = next_try(run, self.study.retry_diverged)
        if following is None or self.stopping.is_set():
            return
        # What others take of the diverged run's beginning, the new one does not have.
        self._sharing[following.key] = Sharing()
        self._resources[following.key] = following.resources
        place = self.current_keys.index(run.key)
        self.current_keys[place] = following.key
        self.admit(Decision(following, "start", "lower rate"))
        rate = following.spec.training.optimizer.learning_rate
        reason = f"{run.name} diverged; learning rate {rate:.3g}"
        self.events.write("retried", following.name, reason, retry=following.retry)
        self._waiting.insert(0, following)

    def _wall_seconds(self, run: PlannedRun) -> float:
        return time.monotonic() - self._launched_at[run.key]

    def _planned_seconds(self, run: PlannedRun) -> float:
        study, parameters = self.study, run.total_parameters
        keep, first = study.checkpoint.keep, self._sharing[run.key].first_step
        return run_costs(run.spec, run.resources, parameters, keep, self._rates, first).seconds

    def _refresh_leases(self) -> None:
        if time.time() - self._refreshed < LEASE_REFRESH_SECONDS:
            return
        self._refreshed = time.time()
        for run in self._running.values():
            if run.key in self._lost:
                continue
            try:
                self.ledger.refresh(run.key)
            except LeaseLostError as lost:
                self._lose(run, lost)
            except StorageError as error:  # a full disk: others may take over after 90 s, not now
                log.warning("%s: its lease is not refreshed: %s", run.name, error)

    def _lose(self, run: PlannedRun, lost: LeaseLostError) -> None:
        """Leave a run to the driver that took it over; its workers see the newer attempt and stop
        without a checkpoint (`orchestration.state.fence`)."""
        self._lost.add(run.key)
        self.mirror.leave_run(run.key)
        self.view.lost(run, str(lost))
        self.events.write("lease lost", run.name, str(lost))

    def _closing_tags(self, run: PlannedRun) -> dict[str, str]:
        tags = closing_tags(run, self.ledger)
        if run.key in self._launched_at:
            tags[Tag.WALL_SECONDS] = f"{self._wall_seconds(run):.1f}"
            tags[Tag.PLANNED_SECONDS] = f"{self._planned_seconds(run):.1f}"
        return tags
