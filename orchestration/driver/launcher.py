"""Launches a study's runs side by side, follows them, and records how each ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Container, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial

from cola.data import PreparedData
from cola.errors import StorageError, one_line
from cola.records import Tag
from cola.study import StudySpec
from orchestration.checkpoint.finished import remove_surplus
from orchestration.checkpoint.manifest import verify
from orchestration.cleanup.contents import Thing, choices_by_key
from orchestration.cluster.processes import free_dead_groups
from orchestration.cluster.queue_client import ClusterQueue
from orchestration.driver.attempt import (
    assignment_of,
    closing_tags,
    mirror_ended,
    open_attempt,
    opening_tags,
    outcome_of,
)
from orchestration.driver.launch_queue import LaunchQueue, PlannedTimes
from orchestration.driver.leases import LeaseKeeper, OtherDrivers
from orchestration.driver.monitor import RunMonitor, report_failures, supervise_workers
from orchestration.driver.progress import StudyView
from orchestration.driver.retry_policy import RetryPolicy
from orchestration.driver.run_budget import RunBudget
from orchestration.driver.signals import run_threads
from orchestration.output_mirror.run_mirror import RunMirror
from orchestration.planning.decisions import RunDecision
from orchestration.planning.plan import PlannedRun
from orchestration.planning.shared_prefixes import PrefixPlan, prefix_plans
from orchestration.planning.units import duration
from orchestration.state.event_log import Event, EventLog
from orchestration.state.ledger import Lease, LeaseHeldError, LeaseLostError, Ledger, State
from orchestration.state.paths import output_root, study_folder
from orchestration.tracking.mirror import Mirror
from orchestration.trainers.ray_trainer import ControllerDiedError, fit_run
from orchestration.trainers.warm_workers import WarmWorkers

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # a chosen value: short beside the seconds that a start of workers takes


class Launcher:
    """The runs of a study that wait, run and end under this driver."""

    def __init__(
        self,
        study: StudySpec,
        plan: Sequence[PlannedRun],
        data: PreparedData,
        *,
        ledger: Ledger,
        mirror: Mirror,
        view: StudyView,
        joined: bool,
        copies: RunMirror | None = None,
    ) -> None:
        """`joined`: on a cluster that others share, whose nodes may be taken away. `copies` takes
        runs to the output's mirror."""
        self._joined, self.warm_workers = joined, WarmWorkers()
        self.study, self.data, self.ledger = study, data, ledger
        self.mirror, self.view, self.launched = mirror, view, 0
        self.stopping = threading.Event()
        self._waiting: list[PlannedRun] = []
        self._running: dict[Future[None], PlannedRun] = {}
        self._monitors: dict[str, RunMonitor] = {}
        self._unasked: list[PlannedRun] = []  # to stop
        self._stop_delayed: set[str] = set()  # keys of runs that could not be asked at first
        self._lost: set[str] = set()  # keys of running runs that another driver has taken over
        self._launched_at: dict[str, float] = {}
        self._prefixes = prefix_plans(plan)
        self._planned = PlannedTimes(study, self._prefixes)
        self.current_keys = [run.key for run in plan]
        self._budget = RunBudget(study.resources.max_accelerator_hours, plan, ledger)
        self._retries = RetryPolicy(study.retry_diverged)
        self.events = EventLog(study_folder(study))
        thing = Thing("study", study.name)
        self.copies = copies or RunMirror(None, thing, self.events, notify=view.note)
        self._leases = LeaseKeeper(ledger)
        self._others = OtherDrivers(ledger)

    def admit(self, decision: RunDecision) -> None:
        """Show a planned run, and give MLflow the state that an earlier driver left it in."""
        run = decision.run
        folder = self.ledger.run_folder(run.key)
        self.view.add(run, folder, decision.action)
        if decision.action == "set aside":
            self.events.write(Event.SET_ASIDE, run.name, decision.why)
        elif decision.action == "busy":
            self._others.add(run)
        elif decision.action != "left" or not self.ledger.is_held(self.ledger.known_entry(run.key)):
            if decision.action != "reuse" and self.ledger.known_entry(run.key).state == "finished":
                self._others.train_again(run)
            tags = self._closing_tags(run)
            mirror_ended(run, self.ledger, self.mirror, study=self.study.name, tags=tags)

    def run(self, todo: Sequence[PlannedRun], queue: ClusterQueue) -> None:
        """Launch the runs as the cluster's queue admits them, and wait for all of them."""
        self._waiting = list(todo)
        launches = LaunchQueue(
            self.study, queue, self.view, events=self.events, seconds_of=self._planned.seconds
        )
        threads = len(self.current_keys)  # other drivers' runs may be taken up
        with self.view.live(), run_threads(threads) as pool, closing(launches):
            try:
                while self._running or (self._has_more() and not self.stopping.is_set()):
                    self._step(launches, pool)
            except Exception as error:  # the pool waits for the runs: without a stop, to their end
                self._fail(error)
                raise

    def _has_more(self) -> bool:
        """Whether there may be something to train; other drivers' runs are not waited for."""
        if not (self._waiting or self._others.undecided):
            self._waiting += self._others.released(at_once=True)  # nobody else might look any more
        return bool(self._waiting) or self._others.undecided

    def _step(self, launches: LaunchQueue, pool: ThreadPoolExecutor) -> None:
        """Launch what may start, take up what has ended, look after what is running."""
        self._ask_to_stop()
        for run in self._others.taken(self._waiting):
            self._waiting.remove(run)
            self._leave(run)
        self._waiting += self._others.released()
        self._launch_admitted(launches, pool)
        if not self._running:
            time.sleep(POLL_SECONDS)
        done, _ = wait(self._running, POLL_SECONDS, FIRST_COMPLETED)
        for future in done:
            self._ended(self._running.pop(future), future.exception())
        self.copies.refresh(run.key for run in self._running.values())
        self._supervise()
        self._refresh_leases()
        self.view.refresh(self.mirror.trouble)

    def _fail(self, error: Exception) -> None:
        """Record an error that ends this driver, and ask the running runs to leave."""
        reason = f"{type(error).__name__}: {one_line(error)}"
        self.events.write(Event.DRIVER_FAILED, None, reason)
        log.error("the driver fails: %s", reason)
        self.request_stop(f"the driver fails ({reason})")

    def request_stop(self, reason: str | None = None) -> None:
        """Ask every running run to save a checkpoint and leave; nothing new starts.

        `reason` is None where a person asks.
        """
        self.stopping.set()
        why = "" if reason is None else f": {reason}"
        self.view.stopping(why)
        self.events.write(Event.STOP_REQUESTED, None, reason)
        log.info("stop requested: %d runs are running", len(self._running))
        self._unasked = list(self._running.values())
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        """Ask the workers of the runs that are left to ask, as far as it is possible now."""
        for run in list(self._unasked):
            try:
                asked = self.ledger.request_stop(run.key)
            except StorageError as error:
                if run.key not in self._stop_delayed:
                    self._stop_delayed.add(run.key)
                    self.view.event(run, f"its workers are not asked to stop yet: {error}")
                continue
            if asked:
                self._unasked.remove(run)

    def _launch_admitted(self, launches: LaunchQueue, pool: ThreadPoolExecutor) -> None:
        self.warm_workers.keep_for(run.resources for run in self._waiting)
        if self._waiting and self._budget.is_spent():
            self._refuse(self._waiting)
            self._waiting = []
        stopping = self.stopping.is_set()
        busy = {run.key for run in (*self._waiting, *self._running.values())}
        ready = [] if stopping else [run for run in self._waiting if self._is_ready(run, busy)]
        # Last come runs that would train steps which another driver is about to publish.
        ready = [run for run in ready if self._is_ready(run, self._others)] or ready
        admitted = launches.admitted(ready, self._running.values())
        for run in ready:
            if run.key in admitted and not self._budget.is_spent():
                self._waiting = [other for other in self._waiting if other.key != run.key]
                self._launch(run, pool)
        self._waiting = launches.kept(self._waiting)

    def _is_ready(self, run: PlannedRun, busy: Container[str]) -> bool:
        """Whether none of `busy` is about to train a prefix that this run can take."""
        root = output_root(self.study)
        return all(
            publisher not in busy or verify(prefix.folder(root)) is not None
            for prefix, publisher in self._prefixes[run.key].resumes_from
        )

    def _refuse(self, waiting: Sequence[PlannedRun]) -> None:
        reason = self._budget.reason
        self.view.note(f"{reason}: {len(waiting)} runs are not started")
        for run in waiting:
            self.events.write(Event.NOT_STARTED, run.name, reason)
            log.info("%s: not started: %s", run.name, reason)

    def _launch(self, run: PlannedRun, pool: ThreadPoolExecutor) -> None:
        if self._others.have(run):
            self._leave(run)
            return
        key, former = run.key, self.ledger.known_entry(run.key).lease
        try:
            entry = open_attempt(run, self.ledger, self.data.folder)
        except LeaseHeldError:
            self._leave(run)
            return
        except StorageError as error:
            self.view.event(run, f"{Event.NOT_STARTED}: {error}")
            self.events.write(Event.NOT_STARTED, run.name, str(error))
            log.warning("%s: %s: %s", run.name, Event.NOT_STARTED, error)
            return
        folder, attempt = self.ledger.run_folder(key), len(entry.attempts)
        if former is not None:
            self._report_takeover(run, former)
        self.mirror.follow(run.name, run.spec, folder, tags=opening_tags(self.study.name, run))
        self._monitors[key] = RunMonitor(folder, attempt, study_folder(self.study))
        assignment = assignment_of(
            run,
            self.study,
            study_folder(self.study),
            data_folder=self.data.folder,
            attempt=attempt,
            prefixes=self._prefixes[key],
            preemptible=self._joined,
        )
        fit = fit_run if self._joined else self.warm_workers.fit
        if self.warm_workers.has(run.resources):
            self._planned.found_process(key)
        self._running[pool.submit(fit, assignment)] = run
        self._leases.confirmed(key)
        self.copies.launched(key)
        self.launched += 1
        self._launched_at[key] = time.monotonic()
        self.view.started(run)
        self.events.write(Event.LAUNCHED, run.name, f"attempt {attempt}")
        log.info("%s: launched, attempt %d, in %s", run.name, attempt, folder)

    def _leave(self, run: PlannedRun) -> None:
        """Leave a run to the driver that trains it, or has finished it."""
        self._others.add(run)
        reason = self._others.reason(run)
        self.view.left(run, f"{Event.SKIPPED}: {reason}")
        self.events.write(Event.SKIPPED, run.name, reason)
        log.info("%s: %s: %s", run.name, Event.SKIPPED, reason)

    def _report_takeover(self, run: PlannedRun, former: Lease) -> None:
        text = f"taken over from {former.owner}, which is gone or silent"
        self.view.event(run, text)
        self.events.write(Event.LEASE_TAKEN, run.name, text)
        log.info("%s: %s", run.name, text)

    def _supervise(self) -> None:
        if self._retries.has_lost_controllers:
            free_dead_groups()
        for run in self._running.values():
            notify = partial(self.view.event, run)
            monitor = self._monitors[run.key]
            if self._leases.trouble is None:
                supervise_workers(run, monitor, self.events, notify=notify)
            else:  # a disk that takes no lease takes no heartbeats: silence says nothing
                report_failures(run, monitor, notify=notify)

    def _ended(self, run: PlannedRun, error: BaseException | None) -> None:
        key, monitor = run.key, self._monitors.pop(run.key)
        report_failures(run, monitor, notify=partial(self.view.event, run))
        ending = self._closed(run, error, monitor.attempt)
        if ending is None:
            self._others.add(run)
            return
        state, reason = ending
        if isinstance(error, ControllerDiedError) and self._retry(run, str(error)):
            return
        if state == "diverged":
            self._lower_rate(run)
        self.mirror.close_run(key, state, self._closing_tags(run))
        self.view.ended(run, state, reason)
        self.events.write(state, run.name, reason)
        log.info("%s: ended: %s (%s)", run.name, state, reason or "no reason")
        if state == "finished":
            took, planned = self._wall_seconds(run), self._planned.seconds(run)
            self.view.event(run, f"took {duration(took)}, planned {duration(planned)}")
        gone = partial(self._remove_checkpoints, run) if state == "finished" else None
        self.copies.ended(run.name, key, gone)  # both may be slow

    def _remove_checkpoints(self, run: PlannedRun) -> None:
        """Remove what a finished run leaves for restarts; what fails here is no failure of it."""
        try:
            others = choices_by_key(output_root(self.study)).get(run.key, [])
            remove_surplus(self.ledger.run_folder(run.key), self.study.checkpoint, others)
        except Exception as error:  # stores raise errors of their own libraries
            log.debug("%s: checkpoints are not removed", run.name, exc_info=True)
            self.view.event(
                run,
                f"its checkpoints are not removed ({one_line(error)}); `cola clean "
                f"{self.study.name}` removes them",
            )

    def _closed(
        self, run: PlannedRun, error: BaseException | None, attempt: int
    ) -> tuple[State, str | None] | None:
        """How the attempt ended, and why, once recorded; None if another driver has the run."""
        if run.key in self._lost:
            self._lost.remove(run.key)
            return None
        state, reason = outcome_of(self.ledger.run_folder(run.key), error, attempt=attempt)
        if state == "failed" and self._leases.gave_up is not None:
            # Workers that find no room for their outcome fail of that, not of their training.
            state, reason = "interrupted", f"{self._leases.gave_up} ({reason})"
        try:
            self.ledger.close(run.key, state, reason)
        except LeaseLostError as lost:
            self._lose(run, lost)
            self._lost.remove(run.key)
            return None
        except StorageError as full:  # the next driver finds a lease without a process
            self.view.event(run, f"its end is not recorded: {full}")
        return state, reason

    def _retry(self, run: PlannedRun, reason: str) -> bool:
        """Queue a run again whose end was not its own fault; False if it may not be retried."""
        number, limit = self._retries.after_fault(run), run.resources.max_failures
        if number is None or self.stopping.is_set():
            return False
        self.view.event(run, f"{reason}; retry {number} of {limit}")
        self.events.write(Event.RETRIED, run.name, reason, retry=number)
        log.warning("%s: retry %d of %d: %s", run.name, number, limit, reason)
        self._waiting.insert(0, run)
        return True

    def _lower_rate(self, run: PlannedRun) -> None:
        """Queue a diverged run's next try at a lower rate, if the study allows one."""
        following = self._retries.at_lower_rate(run)
        if following is None or self.stopping.is_set():
            return
        # What others take of the diverged run's prefix, the new one does not have.
        self._prefixes[following.key] = PrefixPlan()
        self._budget.add(following)
        self.current_keys[self.current_keys.index(run.key)] = following.key
        self.admit(RunDecision(following, "start", "lower rate"))
        rate = following.spec.training.optimizer.learning_rate
        reason = f"{run.name} diverged; learning rate {rate:.3g}"
        self.events.write(Event.RETRIED, following.name, reason, retry=following.retry)
        log.warning("%s: retried as %s: %s", run.name, following.name, reason)
        self._waiting.insert(0, following)

    def _wall_seconds(self, run: PlannedRun) -> float:
        return time.monotonic() - self._launched_at[run.key]

    def _refresh_leases(self) -> None:
        held = [run for run in self._running.values() if run.key not in self._lost]
        for run, lost in self._leases.refresh(held):
            self._lose(run, lost)
        trouble = self._leases.new_trouble()
        if trouble is not None:
            self.view.note(trouble)
            self.events.write(Event.LEASE_NOT_REFRESHED, None, trouble)
        if self._leases.gave_up is not None and not self.stopping.is_set():
            self.request_stop(self._leases.gave_up)

    @property
    def storage_failure(self) -> str | None:
        """Why the output folder ended this driver's runs; None where it did not."""
        return self._leases.gave_up

    def _lose(self, run: PlannedRun, lost: LeaseLostError) -> None:
        """Leave a run to the driver that took it over.

        Its workers see the newer attempt and stop without a checkpoint
        (`orchestration.state.fence`).
        """
        self._lost.add(run.key)
        self.mirror.leave_run(run.key)
        self.view.lost(run, str(lost))
        self.events.write(Event.LEASE_LOST, run.name, str(lost))
        log.info("%s: lease lost: %s", run.name, lost)

    def _closing_tags(self, run: PlannedRun) -> dict[str, str]:
        tags = closing_tags(run, self.ledger)
        if run.key in self._launched_at:
            tags[Tag.WALL_SECONDS] = f"{self._wall_seconds(run):.1f}"
            tags[Tag.PLANNED_SECONDS] = f"{self._planned.seconds(run):.1f}"
        return tags
