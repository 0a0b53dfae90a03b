"""Processes that train runs of one worker one after the other: only a first run waits for imports.

They are for a cluster that this driver has to itself, for they keep their resources between two
runs. Runs of several workers, elastic runs and runs on a cluster that is joined are Ray Train's
(`orchestration.trainers.ray_trainer`).
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cola.logs import set_up_logging
from cola.spec.resources import ResourcesSpec
from orchestration.cluster.packing import ClusterState, Node
from orchestration.cluster.session import cluster_state
from orchestration.state.event_log import Event, EventLog
from orchestration.trainers.ray_trainer import TrainingError, fit_run
from orchestration.trainers.worker_logs import cause_of, worker_logs
from orchestration.worker.assignment import Assignment

log = logging.getLogger(__name__)


class WarmWorker:
    """What the process does (an actor of Ray)."""

    def train(self, assignment: str) -> None:
        """Train a run, given as the JSON of its assignment, until it ends or stops.

        Whatever the training raises reaches the caller.
        """
        set_up_logging()
        fit_run(Assignment.model_validate_json(assignment))


@dataclass(frozen=True)
class WorkerProcess:
    """A process, by its actor, with the placement group that holds its resources."""

    cpus: float
    gpus: float
    actor: Any
    group: Any

    @classmethod
    def start(cls, needs: ResourcesSpec) -> WorkerProcess:
        """A new process with the resources of one worker, as soon as they are free."""
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        cpus, gpus = needs.cpus_per_worker, needs.gpus_per_worker
        group = placement_group([{"CPU": cpus, **({"GPU": gpus} if gpus else {})}])
        actor = (
            ray.remote(WarmWorker)
            .options(
                num_cpus=cpus,
                num_gpus=gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group),
            )
            .remote()
        )
        return cls(cpus, gpus, actor, group)

    def suits(self, needs: ResourcesSpec) -> bool:
        """Whether it has just what a run's worker takes."""
        return (self.cpus, self.gpus) == (needs.cpus_per_worker, needs.gpus_per_worker)

    def train(self, assignment: str) -> None:
        """Train a run in the process until it ends or stops.

        Raises:
            RayError: the training failed, or the process died.
        """
        import ray

        ray.get(self.actor.train.remote(assignment))

    def end(self) -> None:
        """End the process, and free its resources."""
        import ray
        from ray.util.placement_group import remove_placement_group

        with suppress(Exception):  # it has died, or the cluster has
            ray.kill(self.actor)
        with suppress(Exception):
            remove_placement_group(self.group)


class WarmWorkers:
    """The processes of one driver. `fit` is called in one thread for each run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[WorkerProcess] = []

    def fit(self, assignment: Assignment) -> None:
        """Train a run; returns when its workers have left.

        Raises:
            ControllerDiedError, TrainingError: as `fit_run`.
        """
        needs = assignment.resources
        if needs.is_for_one_worker:
            self._fit_in_one(assignment)
        else:
            self._make_room()
            fit_run(assignment)

    def _fit_in_one(self, assignment: Assignment) -> None:
        """Train a run of one worker in a process that stays for the next one.

        A process that failed is replaced `resources.max_failures` times, and its run resumes from
        the last checkpoint. Each failure is an event of the study, as those of Ray Train's are.
        """
        from ray.exceptions import RayError

        needs = assignment.resources
        in_process = assignment.model_copy(update={"in_process": True}).model_dump_json()
        for failures in itertools.count(1):
            process = self._taken(needs)
            try:
                process.train(in_process)
            except RayError as error:
                process.end()
                cause = _report(assignment, error)
                if failures > needs.max_failures:
                    raise cause from error
            else:
                with self._lock:
                    self._idle.append(process)
                return

    def has(self, needs: ResourcesSpec) -> bool:
        """Whether a process that has trained waits for a run like this one."""
        with self._lock:
            return needs.is_for_one_worker and any(each.suits(needs) for each in self._idle)

    def keep_for(self, waiting: Iterable[ResourcesSpec]) -> None:
        """End the processes that train nothing and suit none of the runs that wait: what they hold
        is free for elastic runs, and their memory for others on the same GPU."""
        wanted = [needs for needs in waiting if needs.is_for_one_worker]
        with self._lock:
            idle = self._idle
            self._idle = [process for process in idle if any(map(process.suits, wanted))]
            ended = [process for process in idle if process not in self._idle]
        for process in ended:
            process.end()

    def cluster_state(self) -> ClusterState:
        """The cluster as if the processes that train nothing were not there."""
        with self._lock:
            idle = {process.group.id.hex() for process in self._idle}
        state = cluster_state()
        ours = [group for group in state.groups if group.id in idle]
        nodes = {node.id: node for node in state.nodes}
        for group in ours:
            for node, (cpus, gpus) in zip(group.nodes, group.bundles, strict=True):
                if node in nodes:
                    nodes[node] = _with_free(nodes[node], cpus, gpus)
        return ClusterState(
            tuple(nodes.values()), tuple(group for group in state.groups if group.id not in idle)
        )

    def _taken(self, needs: ResourcesSpec) -> WorkerProcess:
        """A process for a run: one that waits, or a new one in place of those that wait."""
        with self._lock:
            for process in self._idle:
                if process.suits(needs):
                    self._idle.remove(process)
                    return process
        self._make_room()
        return WorkerProcess.start(needs)

    def _make_room(self) -> None:
        """End the processes that train nothing: another run takes their resources."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()


def _with_free(node: Node, cpus: float, gpus: float) -> Node:
    return replace(node, free_cpus=node.free_cpus + cpus, free_gpus=node.free_gpus + gpus)


def _report(assignment: Assignment, error: Exception) -> TrainingError:
    """Write why the worker failed into the study's event log, which the driver prints."""
    cause = cause_of({0: error})
    logs = worker_logs(Path(assignment.run_folder), [0])
    EventLog(Path(assignment.study_folder)).write(
        Event.WORKERS_FAILED, assignment.name, cause, attempt=assignment.attempt, logs=logs
    )
    log.warning("%s: its worker failed: %s", assignment.name, cause)
    return TrainingError(f"{cause}; logs: {logs}")
