"""Runs a sweep: every arm through Ray Tune, with a log that a killed driver goes on from."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cola import process_environment
from cola.data import PreparedData, prepare
from cola.errors import SpecError
from cola.files import file_lock, write_atomically
from cola.records import Artifact, SweepFile
from cola.spec import load_yaml
from cola.study import StudySpec
from orchestration.checkpoint.store import check_storage
from orchestration.cluster.admission_actor import SharedQueue
from orchestration.cluster.processes import free_dead_groups
from orchestration.cluster.session import ClusterResources, check_fits, ray_cluster
from orchestration.driver.preflight import check_data, check_output
from orchestration.driver.signals import STOP_SIGNALS, handle_signals, stop_once
from orchestration.state.event_log import EventLog
from orchestration.state.ledger import Ledger
from orchestration.state.paths import OutputFolder
from orchestration.tracking.address import tracking_uri
from orchestration.tracking.mirror import MirroredStudy, open_mirror
from sweeps.driver.best import write_best
from sweeps.driver.periodic import PeriodicThread
from sweeps.driver.progress import TrialProgress
from sweeps.driver.trial_monitor import TrialMonitor
from sweeps.driver.trial_queue import TrialQueue
from sweeps.search.arm_search import ArmSearch, Search
from sweeps.search.population import PopulationSearch, published_prefixes
from sweeps.search.trial_log import SweepLog
from sweeps.space.catalog import sweep_folder
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from sweeps.trials.prefix_claims import remove_prefixes, stage_prefixes
from sweeps.trials.trial import SWEEP_STOP

WATCH_SECONDS = 1.0
FOLLOWER_BYTES = 500e6
# What may differ between two calls that work on the same sweep.
FREE = (
    "description",
    "question",
    "answer",
    "budget",
    "concurrent_trials",
    "scales",
    "warm_workers",
)


@dataclass(frozen=True)
class SweepResult:
    """How a sweep stands when its driver leaves."""

    folder: Path
    states: Counter[str]  # trials by state; those that have not ended are open
    stopped: bool  # a person asked to stop
    unmirrored: list[str]

    @property
    def complete(self) -> bool:
        """Whether no point is left open."""
        return not self.states["open"] and not self.stopped


def run_sweep(
    sweep: SweepSpec, points: PointPlanner, address: str | None, say: Callable[[str], None]
) -> SweepResult:
    """Carry out a sweep until its budgets are spent or a person stops it.

    Raises:
        SpecError: for anything found wrong before the first trial starts.
    """
    base = points.base
    root, folder = check_output(base), sweep_folder(base)
    folder.mkdir(parents=True, exist_ok=True)
    check_storage(base.checkpoint.storage)
    with ExitStack() as stack:
        stack.enter_context(exclusive_driver(folder, sweep.name))
        save_spec(sweep, base, folder)
        (folder / SWEEP_STOP).unlink(missing_ok=True)
        log, keys, events = SweepLog(folder), list[str](), EventLog(folder)
        datas = PreparedCorpora(OutputFolder(root).cache)
        datas.of(base)
        mirror = open_mirror(
            tracking_uri(base), sweep.name, OutputFolder(root).artifacts / sweep.name
        )
        tracked = TrialProgress(sweep.name, sweep.metrics, mirror, keys, say, events)
        kind = PopulationSearch if sweep.is_population else ArmSearch
        arms: list[Search] = [kind(arm, points, log) for arm in points.arms()]
        cluster = stack.enter_context(ray_cluster(address))
        queue = None
        if address is None:
            check_fits(base.resources, cluster)
        else:
            queue = stack.enter_context(closing(TrialQueue(base, SharedQueue(), say, events)))
        files = (folder / SweepFile.SPEC, folder / SweepFile.TRIALS)
        parent = MirroredStudy(folder, Ledger(root), keys, cluster.dashboard, files=files)
        mirror.start(parent)
        for asked, _ in (pair for arm in points.arms() for pair in log.ended_of(arm)):
            tracked.known(asked, points.of(asked.arm, asked.point))
        drive = SweepDriver(sweep, base, folder, log, tracked, datas, cluster, queue, events, say)
        stack.enter_context(drive.stop_on_interrupt())
        drive.run(arms)
        # Trials that were stopped early leave interrupted runs in a sweep that is done.
        over = not drive.stopped and len(log.asked) == len(log.ended)
        parent.state = "finished" if over else "interrupted"
        unmirrored = mirror.finish(patience_seconds=30.0)
    states: Counter[str] = Counter(ended.state for ended in log.ended.values())
    states["open"] = len(log.asked) - len(log.ended)
    result = SweepResult(folder, states, drive.stopped, unmirrored)
    if result.complete:
        pairs = [(asked, points.of(asked.arm, asked.point)) for asked in log.asked.values()]
        specs = [run.spec for _, candidate in pairs for run in candidate.runs]
        left = [each for spec in specs for each in stage_prefixes(spec)]
        left += [each for pair in pairs for each in published_prefixes(*pair)]
        remove_prefixes(left, root)
        write_best(sweep, points, log, folder)
    return result


class PreparedCorpora:
    """Prepared corpora, each once."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, PreparedData] = {}

    def of(self, study: StudySpec) -> PreparedData:
        """The study's corpus.

        Raises:
            SpecError: where it does not fill a batch, or the validation asked for.
        """
        key = study.data.canonical_json()
        if key not in self._known:
            self._known[key] = prepare(study.data, self._cache)
        check_data(study, self._known[key])
        return self._known[key]


class SweepDriver:
    """Ray Tune over the arms: one experiment for all of them, or one each where a scheduler
    compares trials (those of two arms do not compare)."""

    def __init__(
        self,
        sweep: SweepSpec,
        base: StudySpec,
        folder: Path,
        log: SweepLog,
        tracked: TrialProgress,
        datas: PreparedCorpora,
        cluster: ClusterResources,
        queue: TrialQueue | None,
        events: EventLog,
        say: Callable[[str], None],
    ) -> None:
        """`queue`: that of a cluster which others share."""
        self._sweep, self._base, self._folder = sweep, base, folder
        self._log, self._tracked, self._datas = log, tracked, datas
        self._cluster, self._queue, self._events, self._say = cluster, queue, events, say
        # A process that stays for the next trial does not give back what the queue has granted.
        warm = sweep.warm_workers and queue is None
        self._in_process = warm and base.resources.workers == 1
        self._search: Any = None
        self.stopped = False

    def run(self, arms: list[Search]) -> None:
        """All arms, until they are over or a person stops the sweep."""
        together = self._sweep.scheduler.kind in ("none", "pbt") or self._sweep.scheduler.is_pruner
        for group in [arms] if together else [[arm] for arm in arms]:
            if not self.stopped:
                self._tune(group)

    def _tune(self, arms: list[Search]) -> None:
        process_environment.tune_driver()
        # Processes that died are told of by their trials, which may have been taken up again.
        logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
        from ray import tune

        from sweeps.driver.tune_search import TuneSearch
        from sweeps.trials.trainable import SweepTrial

        concurrent, driver = self._concurrent(), uuid.uuid4().hex[:8]
        self._search = TuneSearch(
            arms,
            self._log,
            str(self._folder),
            self._datas.of,
            self._tracked,
            self._queue,
            self._in_process,
            self._sweep.scheduler.kind,
            self._sweep.metrics[0].name,
            driver,
        )
        watch = TrialMonitor(driver, self._search.under_way, self._events, self._say)

        def look() -> None:
            try:
                watch.look()
                if not self._in_process:
                    free_dead_groups()  # of runs that lost their trial's process
            except BaseException:  # raised once Tune has ended
                self._search.request_stop()
                raise

        tuner = tune.Tuner(
            tune.with_resources(SweepTrial, self._trial_resources()),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=self._search,
                scheduler=scheduler_of(self._sweep, self._search),
                max_concurrent_trials=concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"driver-{os.getpid()}-{'-'.join(arm.arm for arm in arms)[:40]}",
                storage_path=str(self._folder / "tune"),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        with closing(PeriodicThread(look, WATCH_SECONDS)):
            tuner.fit()

    def _trial_resources(self) -> dict[str, float]:
        """Of a trial's process: those of the worker that it is, or the memory of one that follows
        workers (Tune refuses a trial that takes nothing)."""
        if not self._in_process:
            return {"memory": FOLLOWER_BYTES}
        needs = self._base.resources
        return {"cpu": needs.cpus_per_worker, "gpu": needs.gpus_per_worker}

    def _concurrent(self) -> int | None:
        """Trials side by side: as many as the cluster has workers for. None: as its queue says."""
        needs = self._base.resources
        asked = [
            limit
            for limit in (self._sweep.concurrent_trials, needs.concurrent_runs)
            if limit is not None
        ]
        if self._queue is not None:
            return min(asked, default=None)
        limits = [int(self._cluster.cpus / (needs.workers * needs.cpus_per_worker))]
        if needs.gpus_per_worker:
            limits.append(int(self._cluster.gpus / (needs.workers * needs.gpus_per_worker)))
        return max(1, min([*limits, *asked]))

    def stop_on_interrupt(self) -> contextlib.AbstractContextManager[None]:
        """SIGINT or SIGTERM once: trainings save and leave. Either again: leave at once."""
        return handle_signals(stop_once(lambda: self.stopped, self.request_stop, STOP_SIGNALS))

    def request_stop(self) -> None:
        """Ask all trials to save a checkpoint and leave; none starts any more."""
        self.stopped = True
        self._say("stopping: running trainings save a checkpoint and leave")
        (self._folder / SWEEP_STOP).touch()
        if self._search is not None:
            self._search.request_stop()


def scheduler_of(sweep: SweepSpec, search: Any) -> Any:
    """Tune's scheduler; its clock is the share of a run's budget that is spent."""
    from ray.tune import schedulers

    from sweeps.driver.tune_search import PrunerScheduler
    from sweeps.trials.trainable import SPENT

    chosen, goal = sweep.scheduler, sweep.metrics[0]
    mode = "min" if goal.direction == "minimize" else "max"
    common = {"time_attr": SPENT, "metric": goal.name, "mode": mode}
    if chosen.kind in ("asha", "hyperband"):
        return schedulers.AsyncHyperBandScheduler(
            **common,
            max_t=1.0,
            grace_period=chosen.grace,
            reduction_factor=chosen.reduction,
            brackets=3 if chosen.kind == "hyperband" else 1,
        )
    if chosen.kind == "median":
        return schedulers.MedianStoppingRule(
            **common,
            grace_period=chosen.grace,
            min_samples_required=3,
            min_time_slice=2.0,  # beyond the whole budget: trials are ended, never paused
            hard_stop=True,
        )
    return PrunerScheduler(search) if chosen.is_pruner else schedulers.FIFOScheduler()


@contextlib.contextmanager
def exclusive_driver(folder: Path, name: str) -> Iterator[None]:
    """No second driver works on the sweep at the same time.

    Raises:
        SpecError: where one does.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(folder / SweepFile.LOCK, wait=False))
        except BlockingIOError:
            raise SpecError(f"sweep {name}: is being run by another process ({folder})") from None
        yield


def save_spec(sweep: SweepSpec, base: StudySpec, folder: Path) -> None:
    """Keep the sweep and its base study beside its trials.

    Raises:
        SpecError: where the folder holds trials of another sweep of this name.
    """
    path = folder / SweepFile.SPEC
    now = {"sweep": sweep.model_dump(mode="json"), "study": base.model_dump(mode="json")}
    if path.exists() and (folder / SweepFile.TRIALS).exists():
        before = load_yaml(path)
        differ = [
            key
            for key, value in now["sweep"].items()
            if key not in FREE and before.get("sweep", {}).get(key) != value
        ]
        if result_settings(before.get("study", {})) != result_settings(now["study"]):
            differ.append("study")
        if differ:
            raise SpecError(
                f"{folder}: holds trials of another sweep of this name (other: "
                f"{', '.join(differ)}); name this one otherwise, or remove the folder"
            )
    import yaml

    write_atomically(path, yaml.safe_dump(now, sort_keys=False))
    write_atomically(folder / Artifact.STUDY, base.to_yaml())


def result_settings(study: dict[str, Any]) -> dict[str, Any]:
    """What of a study's values decides its results."""
    free = ("resources", "checkpoint", "tracking", "description", "output")
    return {key: value for key, value in study.items() if key not in free}
