"""Runs a whole sweep, or resumes one: from its specification to its best point."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cola.errors import SpecError, StorageError
from cola.study import StudySpec
from cola.terminal import waiting
from orchestration.checkpoint.address import redacted
from orchestration.checkpoint.store import check_storage
from orchestration.cleanup.contents import Thing, run_keys
from orchestration.cluster.admission_actor import SharedQueue
from orchestration.cluster.session import ClusterResources, check_fits, ray_cluster
from orchestration.driver.live_screen import LiveScreen
from orchestration.driver.preflight import check_output
from orchestration.driver.supervisor import supervised
from orchestration.output_mirror.bring import bring_runs, bring_thing
from orchestration.output_mirror.folder_list import DamagedError
from orchestration.output_mirror.mirror import OutputMirror, mirror_of
from orchestration.output_mirror.run_mirror import RunMirror
from orchestration.state.event_log import EventLog
from orchestration.state.paths import OutputFolder, output_root
from orchestration.tracking.address import tracking_uri
from orchestration.tracking.chosen_trackers import trackers_of
from orchestration.tracking.mirror import open_mirror
from sweeps.driver.best import best_scores, write_best
from sweeps.driver.context import SweepContext
from sweeps.driver.corpora import PreparedCorpora
from sweeps.driver.folder import exclusive_driver, save_spec
from sweeps.driver.progress import TrialProgress
from sweeps.driver.sweep_driver import SweepDriver
from sweeps.driver.trial_queue import TrialQueue
from sweeps.driver.tuned import is_tuning_sweep, write_tuned
from sweeps.search.ahead import SearchAhead
from sweeps.search.arm_search import ArmSearch, Search
from sweeps.search.known_trials import describe_left_out, leave_out_trials, planned_trials
from sweeps.search.population import PopulationSearch, published_prefixes
from sweeps.search.rate_search import RateSearch
from sweeps.search.trial_log import SweepLog
from sweeps.space.catalog import sweep_folder
from sweeps.space.points import PointPlanner
from sweeps.space.rate_question import RateQuestion
from sweeps.space.spec import SweepSpec
from sweeps.space.storage import storage_errors
from sweeps.trials.prefix_claims import remove_prefixes, stage_prefixes
from sweeps.trials.stopping import SWEEP_STOP
from sweeps.views.live_table import SweepView

log = logging.getLogger(__name__)

Forecaster = Callable[[Path, str, float], str]  # folder, arm, budget: registers, and says what


@dataclass(frozen=True)
class SweepResult:
    """State of a sweep when its driver ends."""

    folder: Path
    states: Counter[str]  # trials by state; those without an outcome are open
    stopped: bool  # a person asked to stop
    unmirrored: list[str]  # runs of which MLflow did not take everything
    unsent: Sequence[str] = ()  # names of what the output's mirror does not have
    tuned: Path | str | None = None  # `tuned.yaml` of a tuning sweep, or why there is none

    @property
    def complete(self) -> bool:
        """Whether every requested point has an outcome, and nobody stopped the sweep."""
        return not self.states["open"] and not self.stopped


def run_supervised(
    sweep: SweepSpec,
    settings: list[str],
    address: str,
    *,
    base: StudySpec,
    screen: LiveScreen,
    forecast: Forecaster | None = None,
) -> SweepResult:
    """`run_sweep` on the cluster at `address`, its driver started again where it is lost.

    `settings` change the base study, which is then `base`. `forecast` is a function of a module,
    which another process can import.

    Raises:
        ColaError: see `run_sweep`.
        ClusterError: the driver was lost too often, or the cluster did not come back.
    """
    return supervised(
        partial(_drive, sweep, settings, address, forecast=forecast),
        address,
        base.resources,
        events=EventLog(sweep_folder(base)),
        notify=screen.note,
    )


def _drive(
    sweep: SweepSpec, settings: list[str], address: str, *, forecast: Forecaster | None
) -> SweepResult:
    return run_sweep(PointPlanner(sweep, settings), address, LiveScreen(), forecast=forecast)


def run_sweep(
    planner: PointPlanner,
    address: str | None,
    screen: LiveScreen,
    *,
    forecast: Forecaster | None = None,
) -> SweepResult:
    """Run a sweep until its budgets are spent or a person stops it.

    `address` is the Ray cluster's; None starts one on this machine. `screen` shows how it goes.
    `forecast` registers what a rate sweep expects of its largest budget before that is
    trained; None: nothing is registered.

    Raises:
        ColaError: something is found wrong before the first trial starts (a SpecError names what
            to change), or the sweep's own files cannot be written.
    """
    sweep, base = planner.sweep, planner.base
    check_output(base)
    check_storage(base.checkpoint.storage)
    folder, thing, notify = sweep_folder(base), Thing("sweep", sweep.name), screen.note
    mirror = sweep_mirror(planner)
    copies = RunMirror(mirror, thing, EventLog(folder), notify=notify)
    with exclusive_driver(folder, sweep.name), copies.closing():
        if mirror is not None:
            bring_sweep(mirror, thing, copies)
        trial_log = SweepLog(folder)
        leave_out_trials(planner, trial_log)
        save_spec(sweep, base, folder, fingerprint=planner.fingerprint(base), trial_log=trial_log)
        with storage_errors(folder / SWEEP_STOP):
            (folder / SWEEP_STOP).unlink(missing_ok=True)
        show_notes(planner, trial_log, notify)

        def register(arm: str, budget: float) -> None:
            if forecast is not None:
                notify(forecast(folder, arm, budget))

        arms = [
            SearchAhead(search_of(arm, planner, trial_log, register=register))
            for arm in planner.arms()
        ]
        is_over = not any(arm.has_next() for arm in arms)
        with ExitStack() as stack:
            context = open_context(
                stack, planner, SweepView(screen, sweep, trial_log), trial_log=trial_log,
                address=address, is_over=is_over, copies=copies,
            )  # fmt: skip
            stopped, unmirrored = run_arms(arms, planner, context)
        states: Counter[str] = Counter(outcome.state for outcome in trial_log.outcomes.values())
        states["open"] = trial_log.open_count
        result = SweepResult(folder, states, stopped, unmirrored)
        log.info("sweep %s: %s, complete: %s", sweep.name, dict(states), result.complete)
        if result.complete:
            result = concluded(planner, trial_log, result, notify=notify)
        keys = run_keys(output_root(base), thing)
        return replace(result, unsent=copies.finish((key[:12], key) for key in keys))


def concluded(
    planner: PointPlanner,
    trial_log: SweepLog,
    result: SweepResult,
    *,
    notify: Callable[[str], None],
) -> SweepResult:
    """Write what a complete sweep ends in: its best points, or the rules of a tuning sweep.

    Raises:
        StorageError: a file cannot be written.
    """
    remove_all_prefixes(planner, trial_log)
    if is_tuning_sweep(planner):
        return replace(result, tuned=write_tuned(planner, trial_log, result.folder))
    write_best(planner, trial_log, result.folder)
    for sentence in best_scores(planner, trial_log):
        notify(sentence)
    return result


def sweep_mirror(planner: PointPlanner) -> OutputMirror | None:
    """The mirror of the sweep's output, which takes what is written; None where it has none.

    Raises:
        SpecError: it cannot be one, or the sweep is a population.
        StorageError: a file cannot be written to it and read back.
    """
    base = planner.base
    if base.output_mirror is not None and planner.sweep.is_population:
        raise SpecError(
            f"output_mirror={redacted(base.output_mirror)}: members of a population resume from "
            "each other's training states, which no mirror keeps; leave it out, and give the "
            "sweep an `output` that all nodes see"
        )
    return mirror_of(base, check=True)


def bring_sweep(mirror: OutputMirror, thing: Thing, copies: RunMirror) -> None:
    """Take the sweep's log and the runs of its trials from the mirror, where they lack here.

    Raises:
        StorageError: the mirror does not answer, or the log is damaged there.
    """
    try:
        bring_thing(mirror, thing)
    except DamagedError as error:
        raise StorageError(
            f"output_mirror={mirror.shown}: {error}; the sweep's trials cannot be known: restore "
            f"the file, or remove {thing.folder}/results.json there to begin the sweep anew (its "
            "finished runs are taken from the mirror all the same)"
        ) from None
    for found in bring_runs(mirror, run_keys(mirror.root, thing)):
        copies.taken(found.key[:12], found)


def search_of(
    arm: str, planner: PointPlanner, trial_log: SweepLog, *, register: Callable[[str, float], None]
) -> Search:
    """The search of an arm, by what the sweep asks."""
    if planner.sweep.is_population:
        return PopulationSearch(arm, planner, trial_log)
    if isinstance(planner.sweep.answer, RateQuestion):
        return RateSearch(arm, planner, trial_log, register=register)
    return ArmSearch(arm, planner, trial_log)


def open_context(
    stack: ExitStack,
    planner: PointPlanner,
    view: SweepView,
    *,
    trial_log: SweepLog,
    address: str | None,
    is_over: bool,
    copies: RunMirror,
) -> SweepContext:
    """Open what the driver needs, until the stack is closed: corpus, MLflow, cluster and queue.

    A sweep that `is_over` has no trial to run, and gets neither cluster nor queue.

    Raises:
        SpecError: the corpus does not fill a batch, or the workers do not fit on this machine.
        ColaError: MLflow or the cluster does not answer.
    """
    sweep, base, folder = planner.sweep, planner.base, sweep_folder(planner.base)
    output, events = OutputFolder(output_root(base)), EventLog(folder)
    corpora = PreparedCorpora(output.cache)
    corpora.of(base)
    trackers = trackers_of(base, sweep.name, folder)
    mirror = open_mirror(tracking_uri(base), sweep.name, output.artifacts / sweep.name, trackers)
    cluster, queue = ClusterResources(0, 0), None
    if not is_over:
        with waiting("starting Ray" if address is None else "joining the Ray cluster"):
            cluster = stack.enter_context(ray_cluster(address))
    if is_over:
        log.info("sweep %s: no trial is left to run", sweep.name)
    elif address is None:
        check_fits(base.resources, cluster)
    else:
        queue = TrialQueue(base, SharedQueue(), events, notify=view.note)
        stack.enter_context(closing(queue))
    return SweepContext(
        sweep=sweep,
        base=base,
        folder=folder,
        trial_log=trial_log,
        events=events,
        progress=TrialProgress(sweep, mirror, events, view=view, copies=copies),
        corpora=corpora,
        cluster=cluster,
        queue=queue,
        view=view,
    )


def run_arms(
    arms: list[SearchAhead], planner: PointPlanner, context: SweepContext
) -> tuple[bool, list[str]]:
    """Run every arm from where earlier drivers left it.

    Returns whether a person stopped the sweep, and the names of runs that MLflow lacks parts of.
    """
    trial_log, progress = context.trial_log, context.progress
    progress.open(context.folder, output_root(context.base), context.cluster.dashboard)
    for arm in arms:
        ended = [request for request, _ in trial_log.ended_trials(arm.arm)]
        for request, planned in planned_trials(planner, ended):
            progress.trial_known(request, planned)
    driver = SweepDriver(context)
    with driver.stop_on_interrupt():
        driver.run(arms)
        # Not by the runs: those of trials that were stopped early stay interrupted.
        complete = not driver.stopped and not trial_log.open_count
        unmirrored = progress.close(complete=complete)
    return driver.stopped, unmirrored


def show_notes(planner: PointPlanner, trial_log: SweepLog, notify: Callable[[str], None]) -> None:
    """Print what the search leaves out: of the space's keys, and of trials of earlier calls."""
    for arm in planner.arms():
        name = f"arm {arm}" if arm else "note"
        for note in planner.sweep.search_notes(arm):
            notify(f"{name}: {note}")
    left_out = describe_left_out(trial_log)
    if left_out is not None:
        notify(f"note: {left_out}")


def remove_all_prefixes(planner: PointPlanner, trial_log: SweepLog) -> None:
    """Delete the training states that the trials of a complete sweep shared."""
    prefixes = []
    for request, planned in planned_trials(planner, trial_log.requests.values()):
        prefixes += [prefix for run in planned.runs for prefix in stage_prefixes(run.spec)]
        prefixes += published_prefixes(request, planned)
    remove_prefixes(prefixes, output_root(planner.base))
