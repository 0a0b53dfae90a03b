"""A study's runs in the queue of its cluster: which may start now, which are given up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from cola.study import StudySpec
from orchestration.cluster.packing import RunRequest
from orchestration.cluster.queue_client import ClusterQueue, QueueClient
from orchestration.driver.progress import StudyView
from orchestration.planning.costs import run_costs
from orchestration.planning.plan import PlannedRun
from orchestration.planning.rates import measured_rates
from orchestration.planning.shared_prefixes import PrefixPlan
from orchestration.state.event_log import EventLog
from orchestration.state.paths import output_root


class PlannedTimes:
    """How long the plan expects a study's runs to take."""

    def __init__(self, study: StudySpec, prefixes: Mapping[str, PrefixPlan]) -> None:
        self._keep, self._rates = study.checkpoint.keep, measured_rates(output_root(study))
        self._prefixes = prefixes
        self._warm: set[str] = set()  # keys of runs that found the process of one before them

    def found_process(self, key: str) -> None:
        """Count no whole start for this run."""
        self._warm.add(key)

    def seconds(self, run: PlannedRun) -> float:
        """The run's wall time, without the first steps that another run trains."""
        return run_costs(
            run.spec,
            run.resources,
            run.total_parameters,
            keep=self._keep,
            rates=self._rates,
            first_step=self._prefixes[run.key].first_step,
            warm=run.key in self._warm,
        ).seconds


def request_of(
    run: PlannedRun, study: StudySpec, owner: str, *, id: str, seconds: float
) -> RunRequest:
    """The resources that a run asks its cluster for, waiting since now.

    `seconds` is how long the plan expects it to train.
    """
    needs = run.resources
    return RunRequest(
        id=id,
        owner=owner,
        name=run.name,
        study=study.name,
        workers=needs.workers,
        cpus=needs.cpus_per_worker,
        gpus=needs.gpus_per_worker,
        size=run.train_flops("executed"),
        seconds=seconds,
        since=time.time(),
        labels=dict(needs.labels),
        min_workers=needs.min_workers,
        priority=study.resources.priority,
        at_once=study.resources.concurrent_runs,
    )


class LaunchQueue:
    """Which runs of a study may start now."""

    def __init__(
        self,
        study: StudySpec,
        queue: ClusterQueue,
        view: StudyView,
        *,
        events: EventLog,
        seconds_of: Callable[[PlannedRun], float],
    ) -> None:
        self._study, self._seconds_of = study, seconds_of
        self._place = QueueClient(
            study.name, queue, view.note, events=events, wait_seconds=study.resources.wait_seconds
        )
        self._requests: dict[str, RunRequest] = {}  # by run key, of those that wait

    def admitted(
        self, ready: Sequence[PlannedRun], running: Iterable[PlannedRun]
    ) -> dict[str, int]:
        """Number of workers with which each run, by its key, may start now."""
        for run in ready:
            if run.key not in self._requests:
                self._requests[run.key] = request_of(
                    run, self._study, self._place.owner, id=run.key, seconds=self._seconds_of(run)
                )
        requests = [self._requests[run.key] for run in ready]
        granted = self._place.admitted(requests, [run.key for run in running])
        for key in granted:
            del self._requests[key]
        return granted

    def kept(self, waiting: Sequence[PlannedRun]) -> list[PlannedRun]:
        """The runs that are not given up; the queue reports why the others are."""
        requests = [self._requests[run.key] for run in waiting if run.key in self._requests]
        given_up = self._place.given_up(requests)
        return [run for run in waiting if run.key not in given_up]

    def close(self) -> None:
        """Leave the queue."""
        self._place.leave()
