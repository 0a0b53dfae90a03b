"""The one queue of a cluster that several drivers share: a named actor that outlives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestration.cluster.admission_queue import AdmissionQueue, Answer
from orchestration.cluster.packing import Holding, Request
from orchestration.cluster.session import cluster_state

NAMESPACE = "cola"
NAME = "admission-1"  # the number is that of what is said between the two: drivers of one agree
HEAD = "node:__internal_head__"  # what Ray marks the head node with
ANSWER_SECONDS = 20.0
SETTLE_SECONDS = 3.0  # drivers call every second


class SharedQueue:
    """A driver's line to the actor; makes the actor where there is none (any more)."""

    def __init__(self) -> None:
        self._actor: Any = None

    def update(
        self, owner: str, now: float, requests: Sequence[Request], held: Sequence[Holding]
    ) -> Answer | None:
        """As AdmissionQueue.update; None where the actor is gone or too busy: ask again."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        try:
            if self._actor is None:
                self._actor = queue_actor()
            answer: Answer = ray.get(
                self._actor.update.remote(owner, now, list(requests), list(held)),
                timeout=ANSWER_SECONDS,
            )
        except (RayActorError, GetTimeoutError):
            self._actor = None
            return None
        return answer

    def leave(self, owner: str) -> None:
        """Take this owner from the queue; the last one ends the actor."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        if self._actor is None:
            return
        try:
            if ray.get(self._actor.leave.remote(owner), timeout=ANSWER_SECONDS):
                # One that comes at this moment finds it dead, and makes another.
                ray.kill(self._actor)
        except (RayActorError, GetTimeoutError):
            self._actor = None  # it forgets silent owners by itself


class OwnQueue:
    """The queue of a private cluster, in this process."""

    def __init__(self) -> None:
        self._queue = AdmissionQueue(cluster_state)

    def update(
        self, owner: str, now: float, requests: Sequence[Request], held: Sequence[Holding]
    ) -> Answer | None:
        """As AdmissionQueue.update."""
        return self._queue.update(owner, now, requests, held)

    def leave(self, owner: str) -> None:
        """Nobody else waits for what is left."""


def queue_actor() -> Any:
    """The cluster's queue, made on the head node if there is none."""
    import ray

    place = {"resources": {HEAD: 0.001}} if HEAD in ray.cluster_resources() else {}
    return (
        ray.remote(AdmissionQueue)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            **place,
        )
        .remote(cluster_state, settle_seconds=SETTLE_SECONDS)
    )
