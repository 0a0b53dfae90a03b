"""Runs a study: launches its runs side by side, follows them, keeps ledger and mirror."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from cola.data import PreparedData, prepare
from cola.families import family_of
from cola.records import Tag
from cola.spec import SpecError, StudySpec
from orchestration.admission_actor import OwnQueue, SharedQueue
from orchestration.checkpoint import verify
from orchestration.cluster import check_fits, ray_cluster
from orchestration.corpus_size import CorpusSize, check_epochs
from orchestration.costs import run_costs
from orchestration.decisions import Decision, decide, remember_plan
from orchestration.events import EventLog
from orchestration.guard import accelerator_hours
from orchestration.hooks import STOP_FILE
from orchestration.launch_queue import LaunchQueue, Queue
from orchestration.ledger import (
    LEASE_REFRESH_SECONDS,
    LeaseHeldError,
    Ledger,
    State,
    write_atomically,
)
from orchestration.plan import PlannedRun, output_root, plan_study, study_folder
from orchestration.plan_view import duration
from orchestration.prefixes import remove_published, shared_beginnings
from orchestration.progress import StudyView
from orchestration.rates import measured_rates
from orchestration.ray_train import OUTCOME_FILE, Assignment, RunOutcome, fit_run
from orchestration.tracking import Mirror, open_mirror

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class StudyResult:
    """How the study's runs stand when the driver leaves."""

    states: dict[str, State]  # by run name
    trained: int  # runs that this call launched
    stopped: bool  # a person asked to stop
    unmirrored: list[str]  # runs whose journal MLflow has not taken whole

    @property
    def complete(self) -> bool:
        """Whether every run is finished."""
        return all(state == "finished" for state in self.states.values())


def tracking_uri(study: StudySpec) -> str:
    """Where MLflow is: the study's, or a SQLite file in the output folder."""
    return study.tracking.uri or f"sqlite:///{output_root(study) / 'mlflow.db'}"


def check_output(study: StudySpec) -> Path:
    """The output folder, made and proven writable.

    Raises:
        SpecError: when it cannot be written.
    """
    root = output_root(study)
    try:
        study_folder(study).mkdir(parents=True, exist_ok=True)
        write_atomically(root / ".writable", "")
        (root / ".writable").unlink()
    except OSError as error:
        raise SpecError(
            f"output={study.output}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    return root


def check_data(study: StudySpec, data: PreparedData) -> None:
    """Refuse a corpus that does not fill one batch, or validation that asks for more than it has.

    Raises:
        SpecError: with the largest value that would work.
    """
    batch, wanted = study.training.batch_sequences, study.evaluation.validation_sequences
    if len(data.train) < batch:
        raise SpecError(
            f"data.corpus: holds {len(data.train)} training sequences of "
            f"{study.data.sequence_length} tokens, fewer than one batch of {batch}; give more "
            "text, a smaller training.batch_sequences or a shorter data.sequence_length"
        )
    if len(data.validation) < wanted:
        raise SpecError(
            f"evaluation.validation_sequences={wanted}: the validation split holds "
            f"{len(data.validation)}; lower it or raise data.validation_fraction"
        )


def run_study(study: StudySpec, address: str | None, view: StudyView) -> StudyResult:
    """Carry out a study until every run has ended or a person stops it.

    Raises:
        SpecError: for anything found wrong before the first run starts.
    """
    root = check_output(study)
    plan = plan_study(study)
    ledger = Ledger(root)
    mirror = open_mirror(
        tracking_uri(study),
        study.name,
        None if study.tracking.uri else root / "mlartifacts" / study.name,
    )
    data = prepare(study.data, root / "cache", view.data_progress)
    check_data(study, data)
    corpus = CorpusSize(int(data.meta["train"]["tokens"]), True)
    for run in plan:
        check_epochs(study, run.name, run.tokens, corpus)
    decisions = decide(plan, ledger, study_folder(study))
    runner = _Runner(study, plan, data, ledger, mirror, view)
    todo = [d.run for d in decisions if d.action in ("start", "resume")]
    with ExitStack() as stack:
        if todo:
            cluster = stack.enter_context(ray_cluster(address))
            for run in todo if address is None else ():  # one that is joined may grow
                check_fits(run.resources, cluster)
        # From here on the study is under way: nothing was written for one that cannot start.
        view.decided(decisions)
        record_study(study, plan)
        mirror.start()
        for decision in decisions:
            runner.admit(decision)
        if todo:
            stack.enter_context(stop_on_interrupt(runner))
            runner.run(todo, OwnQueue() if address is None else SharedQueue())
    unmirrored = mirror.finish(patience_seconds=30.0)
    states = {run.name: ledger.entry(run.spec.run_key).state for run in plan}
    if all(state == "finished" for state in states.values()):
        remove_published(plan, root)
    return StudyResult(states, runner.launched, runner.stopping.is_set(), unmirrored)


def record_study(study: StudySpec, plan: Sequence[PlannedRun]) -> None:
    """Keep the study's specification and plan beside its report."""
    folder = study_folder(study)
    write_atomically(folder / "study.yaml", study.to_yaml())
    remember_plan(plan, folder)


class _Runner:
    """The state of a study while it runs."""

    def __init__(
        self,
        study: StudySpec,
        plan: Sequence[PlannedRun],
        data: PreparedData,
        ledger: Ledger,
        mirror: Mirror,
        view: StudyView,
    ) -> None:
        self.study, self.data, self.ledger = study, data, ledger
        self.mirror, self.view = mirror, view
        self.launched = 0
        self.stopping = threading.Event()
        self._running: dict[Future[None], PlannedRun] = {}
        self._launched_at: dict[str, float] = {}
        self._rates = measured_rates(output_root(study))
        self._sharing = shared_beginnings(plan)
        self._keys = {run.spec.run_key for run in plan}
        self.events = EventLog(study_folder(study))
        self._refreshed = time.time()

    def admit(self, decision: Decision) -> None:
        """Show a run; mirror one that is finished already (this study's experiment may lack it)."""
        run = decision.run
        folder = self.ledger.run_folder(run.spec.run_key)
        self.view.add(run, folder, decision.action)
        if decision.action == "reuse":
            self.mirror.follow(run.name, run.spec, folder, self._tags(run))
            self.mirror.close_run(run.spec.run_key, "finished", self._closing_tags(run))

    def run(self, todo: Sequence[PlannedRun], queue: Queue) -> None:
        """Launch the runs as the cluster's queue admits them, and wait for all of them."""
        waiting = list(todo)
        launches = LaunchQueue(self.study, queue, self.view, self.events, self._planned_seconds)
        with self.view.live(), ThreadPoolExecutor(len(todo)) as pool, closing(launches):
            while self._running or (waiting and not self.stopping.is_set()):
                waiting = self._launch_admitted(waiting, launches, pool)
                if not self._running:
                    time.sleep(POLL_SECONDS)
                done, _ = wait(self._running, POLL_SECONDS, FIRST_COMPLETED)
                for future in done:
                    self._ended(self._running.pop(future), failure_of(future))
                self._refresh_leases()
                self.view.refresh(self.mirror.trouble)

    def _launch_admitted(
        self, waiting: Sequence[PlannedRun], launches: LaunchQueue, pool: ThreadPoolExecutor
    ) -> list[PlannedRun]:
        """Launch what may start; returns the runs that go on waiting."""
        if waiting and self._spent():
            self._refuse(waiting)
            waiting = []
        stopping = self.stopping.is_set()
        ready = [] if stopping else [run for run in waiting if self._ready(run, waiting)]
        admitted = launches.admitted(ready, self._running.values())
        left = list(waiting)
        for run in ready:
            if run.spec.run_key in admitted and not self._spent():
                left.remove(run)
                self._launch(run, admitted[run.spec.run_key], pool)
        return launches.kept(left)

    def _ready(self, run: PlannedRun, waiting: Sequence[PlannedRun]) -> bool:
        """Whether nobody is about to train a beginning that this run can take."""
        busy = {other.spec.run_key for other in (*waiting, *self._running.values())}
        root = output_root(self.study)
        return all(
            provider not in busy or verify(beginning.folder(root)) is not None
            for beginning, provider in self._sharing[run.spec.run_key].takes
        )

    def _spent(self) -> bool:
        """Whether the study has taken the accelerator hours that it may."""
        limit = self.study.resources.max_accelerator_hours
        if limit is None:
            return False
        entries = (self.ledger.entry(key) for key in self._keys)
        return accelerator_hours(entries, self.study.resources, time.time()) >= limit

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
            (self.ledger.run_folder(run.spec.run_key) / STOP_FILE).touch()

    def _launch(self, run: PlannedRun, workers: int, pool: ThreadPoolExecutor) -> None:
        key = run.spec.run_key
        try:
            entry = self.ledger.acquire(key)
        except LeaseHeldError as error:
            self.view.event(run, f"skipped: {error}")
            self.events.write("skipped", run.name, str(error))
            return
        folder = self.ledger.run_folder(key)
        write_atomically(folder / "spec.json", run.spec.model_dump_json(indent=1))
        write_atomically(folder / "data.json", json.dumps({"folder": str(self.data.folder)}))
        (folder / STOP_FILE).unlink(missing_ok=True)
        (folder / OUTCOME_FILE).unlink(missing_ok=True)
        self.mirror.follow(run.name, run.spec, folder, self._tags(run))
        assignment = self._assignment(run, folder, len(entry.attempts), workers)
        self._running[pool.submit(fit_run, assignment)] = run
        self.launched += 1
        self._launched_at[key] = time.monotonic()
        self.view.started(run)
        self.events.write("launched", run.name, f"attempt {len(entry.attempts)}")

    def _assignment(self, run: PlannedRun, folder: Path, attempt: int, workers: int) -> Assignment:
        resources, checkpoint = run.resources, self.study.checkpoint
        root, sharing = output_root(self.study), self._sharing[run.spec.run_key]
        return Assignment(
            run=run.spec,
            run_folder=str(folder),
            data_folder=str(self.data.folder.resolve()),
            attempt=attempt,
            workers=workers,
            cpus_per_worker=resources.cpus_per_worker,
            gpus_per_worker=resources.gpus_per_worker,
            zero_stage=resources.zero_stage,
            micro_batch_sequences=run.micro_batch_sequences,
            compile=resources.compile,
            max_failures=resources.max_failures,
            checkpoint_every_seconds=self.study.checkpoint.every_seconds,
            checkpoint_keep=checkpoint.keep,
            log_every_steps=self.study.tracking.log_every_steps,
            labels=resources.labels,
            publishes={found.step: str(found.folder(root)) for found in sharing.publishes},
            takes=[str(found.folder(root)) for found, _ in sharing.takes],
        )

    def _ended(self, run: PlannedRun, error: str | None) -> None:
        key = run.spec.run_key
        state, reason = self._outcome(run, error)
        self.ledger.close(key, state, reason)
        self.mirror.close_run(key, state, self._closing_tags(run))
        self.view.ended(run, state, reason)
        self.events.write(state, run.name, reason)
        if state == "finished":
            took, planned = self._wall_seconds(run), self._planned_seconds(run)
            self.view.event(run, f"took {duration(took)}, the plan said {duration(planned)}")

    def _wall_seconds(self, run: PlannedRun) -> float:
        return time.monotonic() - self._launched_at[run.spec.run_key]

    def _planned_seconds(self, run: PlannedRun) -> float:
        study, parameters = self.study, run.total_parameters
        keep, first = study.checkpoint.keep, self._sharing[run.spec.run_key].first_step
        return run_costs(run.spec, run.resources, parameters, keep, self._rates, first).seconds

    def _outcome(self, run: PlannedRun, error: str | None) -> tuple[State, str | None]:
        outcome = read_outcome(self.ledger.run_folder(run.spec.run_key))
        if error is not None or outcome is None:
            return "failed", error or "the training ended without an outcome"
        states: dict[str, State] = {"finished": "finished", "diverged": "diverged"}
        return states.get(outcome.state, "interrupted"), outcome.reason

    def _refresh_leases(self) -> None:
        if time.time() - self._refreshed < LEASE_REFRESH_SECONDS:
            return
        self._refreshed = time.time()
        for run in self._running.values():
            self.ledger.refresh(run.spec.run_key)

    def _tags(self, run: PlannedRun) -> dict[str, str]:
        return {
            Tag.STUDY: self.study.name,
            Tag.FAMILY: run.spec.family,
            Tag.RUNG: str(run.rung),
            Tag.BUDGET: repr(run.spec.budget),
            Tag.SEED: str(run.spec.seed),
            Tag.STATUS: "running",
            Tag.NLL_KIND: self._nll_kind(run),
            Tag.COMPUTE: run.spec.compute,
            Tag.CORE_PARAMETERS: str(run.core_parameters),
            Tag.EMBEDDING_PARAMETERS: str(run.embedding_parameters),
            Tag.TOTAL_PARAMETERS: str(run.total_parameters),
        }

    def _nll_kind(self, run: PlannedRun) -> str:
        return family_of(run.spec.family).nll_kind(run.spec.evaluation.likelihood)

    def _closing_tags(self, run: PlannedRun) -> dict[str, str]:
        entry = self.ledger.entry(run.spec.run_key)
        outcome = read_outcome(self.ledger.run_folder(run.spec.run_key))
        tags = {Tag.ATTEMPTS: str(len(entry.attempts)), Tag.STATUS_REASON: entry.reason or ""}
        if run.spec.run_key in self._launched_at:
            tags[Tag.WALL_SECONDS] = f"{self._wall_seconds(run):.1f}"
            tags[Tag.PLANNED_SECONDS] = f"{self._planned_seconds(run):.1f}"
        if outcome is not None:
            tags[Tag.DATA_ORDER] = json.dumps(outcome.order_digests)
        return tags


def read_outcome(run_folder: Path) -> RunOutcome | None:
    """How the run's training ended, or None where it was cut off."""
    path = run_folder / OUTCOME_FILE
    return RunOutcome.model_validate_json(path.read_text()) if path.exists() else None


def failure_of(future: Future[None]) -> str | None:
    """Why a launched run failed, in a line; None where it ended by itself."""
    error = future.exception()
    if error is None:
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


@contextmanager
def stop_on_interrupt(runner: _Runner) -> Iterator[None]:
    """SIGINT or SIGTERM once: stop cleanly. SIGINT again: leave at once."""

    def request(signum: int, frame: FrameType | None) -> None:
        if runner.stopping.is_set():
            raise KeyboardInterrupt
        runner.view.note("stopping: running trainings save a checkpoint and leave")
        runner.request_stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
