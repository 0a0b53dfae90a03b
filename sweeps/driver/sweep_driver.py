"""Runs the arms of a sweep on Ray Tune."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from cola import process_environment
from cola.errors import ColaError
from orchestration.cluster.processes import free_dead_groups
from orchestration.driver.signals import STOP_SIGNALS, handle_signals, stop_once
from sweeps.driver.context import SweepContext
from sweeps.driver.periodic import PeriodicThread
from sweeps.driver.trial_monitor import TrialMonitor
from sweeps.search.arm_search import Search
from sweeps.space.storage import storage_errors
from sweeps.trials.stopping import SWEEP_STOP

log = logging.getLogger(__name__)

MONITOR_SECONDS = 1.0  # chosen: short beside `resources.hang_seconds`
# About what the process of a trial takes that trains nothing itself; a chosen value.
FOLLOWER_BYTES = 500e6
# They log, with tracebacks, processes that died, which the sweep reports and may retry, and what
# the search has raised, which the driver raises.
TUNE_LOGGERS = (
    "ray.tune.tune",
    "ray.tune.execution.tune_controller",
    "ray.tune.execution.experiment_state",  # snapshots, which nobody reads
)


class SweepDriver:
    """One Tune experiment for all arms, or one for each where the scheduler compares trials.

    Trials of two arms do not compare.
    """

    def __init__(self, context: SweepContext) -> None:
        self._context = context
        self._search: Any = None
        self.stopped = False

    def run(self, arms: Sequence[Search]) -> None:
        """Run all arms, until they are over or a person stops the sweep.

        Raises:
            ColaError: the log cannot be written, or something else that a trial does not survive.
        """
        scheduler = self._context.sweep.scheduler
        if not any(arm.why_over is None for arm in arms):  # Tune would start with nothing to run
            for arm in arms:
                self._context.progress.arm_over(arm)
            return
        together = scheduler.kind in ("none", "pbt") or scheduler.is_pruner
        with self._context.view.live():
            for group in [[*arms]] if together else [[arm] for arm in arms]:
                if not self.stopped:
                    self._tune(group)

    def stop_on_interrupt(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block, SIGINT or SIGTERM stops the sweep; a second one leaves at once."""
        return handle_signals(stop_once(lambda: self.stopped, self.request_stop, STOP_SIGNALS))

    def request_stop(self) -> None:
        """Ask all trials to save a checkpoint and leave, and start no other."""
        self.stopped = True
        self._context.view.stopping()
        path = self._context.folder / SWEEP_STOP
        with storage_errors(path):
            path.touch()
        if self._search is not None:
            self._search.request_stop()

    def trial_resources(self) -> dict[str, float]:
        """What Tune reserves for a trial's process.

        The cores and GPUs of the worker that it is, or the memory of a process that follows
        workers: Tune refuses a trial that takes nothing.
        """
        if not self._context.in_process:
            return {"memory": FOLLOWER_BYTES}
        needs = self._context.base.resources
        return {"cpu": needs.cpus_per_worker, "gpu": needs.gpus_per_worker}

    def concurrent_trials(self) -> int | None:
        """Most trials at the same time, by the settings and by what the cluster has.

        None: as many as the queue of a shared cluster grants.
        """
        context, needs = self._context, self._context.base.resources
        settings = [
            limit
            for limit in (context.sweep.concurrent_trials, needs.concurrent_runs)
            if limit is not None
        ]
        if context.queue is not None:
            return min(settings, default=None)
        limits = [int(context.cluster.cpus / (needs.workers * needs.cpus_per_worker))]
        if needs.gpus_per_worker:
            limits.append(int(context.cluster.gpus / (needs.workers * needs.gpus_per_worker)))
        return max(1, min([*limits, *settings]))

    def _tune(self, arms: list[Search]) -> None:
        """Run some arms as one Tune experiment."""
        process_environment.tune_driver()
        for name in TUNE_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        from sweeps.driver.tune_search import TuneSearch

        self._search = TuneSearch(arms, self._context)
        log.info("Ray Tune starts with arms %s", [arm.arm for arm in arms])
        try:
            with closing(PeriodicThread(self._monitor_function(), MONITOR_SECONDS)):
                self._tuner(arms).fit()
        except Exception as error:
            own = project_error_in(error)
            if own is None:
                raise
            raise own from None

    def _monitor_function(self) -> Any:
        """A function that checks the trials' workers once; if it fails, the sweep stops first."""
        context = self._context
        monitor = TrialMonitor(
            context.driver, self._search.running_trials, context.events, notify=context.view.note
        )

        def check() -> None:
            try:
                monitor.check()
                context.view.refresh()
                context.progress.refresh_copies(self._search.running_trials())
                if not context.in_process:
                    free_dead_groups()  # of runs whose trial's process died
            except BaseException:  # raised again where the thread is closed, after Tune's end
                log.exception("the trials' monitor failed")
                self._search.request_stop()
                raise

        return check

    def _tuner(self, arms: list[Search]) -> Any:
        from ray import tune

        from sweeps.driver.schedulers import scheduler_of
        from sweeps.trials.trainable import SweepTrial

        return tune.Tuner(
            tune.with_resources(SweepTrial, self.trial_resources()),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=self._search,
                scheduler=scheduler_of(self._context.sweep, self._search),
                max_concurrent_trials=self.concurrent_trials(),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"driver-{os.getpid()}-{'-'.join(arm.arm for arm in arms)[:40]}",
                storage_path=str(self._context.folder / "tune"),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )


def project_error_in(error: BaseException) -> ColaError | None:
    """The project's own error that another library's error wraps, if there is one.

    Tune raises some errors of its search as a TuneError with a traceback for a text.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ColaError):
        cause = cause.__cause__ or cause.__context__
    return cause
