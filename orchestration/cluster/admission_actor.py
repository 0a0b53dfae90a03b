"""The one queue of a cluster that several drivers share: a named actor that outlives them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from cola.errors import one_line
from orchestration.cluster.admission_queue import AdmissionQueue, QueueReply
from orchestration.cluster.packing import ClusterState, RunAllocation, RunRequest
from orchestration.cluster.processes import free_dead_groups
from orchestration.cluster.session import cluster_state

log = logging.getLogger(__name__)

NAMESPACE = "cola"
NAME = "admission-3"  # with the number of the protocol: only drivers with the same one share it
HEAD = "node:__internal_head__"  # resource by which Ray marks the head node
ANSWER_SECONDS = 20.0  # chosen value: a decision on hundreds of runs takes well below a second
SETTLE_SECONDS = 3.0  # drivers call every second


class SharedQueue:
    """A driver's connection to the actor; creates the actor where there is none (any more)."""

    def __init__(self) -> None:
        self._actor: Any = None

    def update(
        self,
        owner: str,
        now: float,
        requests: Sequence[RunRequest],
        *,
        held: Sequence[RunAllocation],
    ) -> QueueReply | None:
        """As AdmissionQueue.update, or None where the actor is gone or too busy: ask again."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        try:
            if self._actor is None:
                self._actor = queue_actor()
            answer: QueueReply = ray.get(
                self._actor.update.remote(
                    owner,
                    now,
                    list(requests),
                    held=list(held),
                    job=ray.get_runtime_context().get_job_id(),
                ),
                timeout=ANSWER_SECONDS,
            )
        except (RayActorError, GetTimeoutError) as error:
            log.warning("the cluster's queue does not answer: %s", one_line(error))
            self._actor = None
            return None
        if requests and not answer.granted:
            free_dead_groups()  # of a driver that was killed: nobody else frees them
        return answer

    def leave(self, owner: str) -> None:
        """Remove this owner from the queue; the last one ends the actor."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        if self._actor is None:
            return
        try:
            if ray.get(self._actor.leave.remote(owner), timeout=ANSWER_SECONDS):
                # An owner that comes at this moment finds it dead and creates another.
                ray.kill(self._actor)
        except (RayActorError, GetTimeoutError):
            self._actor = None  # it drops silent owners by itself


class PrivateQueue:
    """The queue of a private cluster, in the driver's process."""

    def __init__(self, look: Callable[[], ClusterState] = cluster_state) -> None:
        """`look` shows the cluster."""
        self._queue = AdmissionQueue(look)

    def update(
        self,
        owner: str,
        now: float,
        requests: Sequence[RunRequest],
        *,
        held: Sequence[RunAllocation],
    ) -> QueueReply | None:
        """As AdmissionQueue.update."""
        return self._queue.update(owner, now, requests, held=held)

    def leave(self, owner: str) -> None:
        """Nothing to do: nobody else waits."""


def queue_actor() -> Any:
    """The cluster's queue, created on the head node if there is none."""
    import ray

    on_head = {"resources": {HEAD: 0.001}} if HEAD in ray.cluster_resources() else {}
    return (
        ray.remote(AdmissionQueue)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            **on_head,
        )
        .remote(cluster_state, settle_seconds=SETTLE_SECONDS)
    )
