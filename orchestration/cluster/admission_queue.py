"""The queue of one cluster: what every driver runs and waits to run, and what may start."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from orchestration.cluster.admission import Wait, admit
from orchestration.cluster.packing import ClusterState, RunAllocation, RunRequest

OWNER_SECONDS = 60.0  # chosen value: an owner that is silent for longer is taken for dead

log = logging.getLogger(__name__)

Key = tuple[str, str]  # owner, request


@dataclass(frozen=True)
class QueueReply:
    """For one owner: workers of its admitted runs, by id, and why each of the others waits."""

    granted: dict[str, int]
    waits: dict[str, Wait]


@dataclass
class _Owner:
    seen: float
    job: str
    requests: dict[str, RunRequest] = field(default_factory=dict)
    held: dict[str, RunAllocation] = field(default_factory=dict)
    granted: dict[str, RunAllocation] = field(default_factory=dict)


class AdmissionQueue:
    """Decides for all owners; every call of an owner repeats all that the queue knows of it.

    So the queue can die and be created anew: one call of each owner restores its state.
    """

    def __init__(
        self,
        look: Callable[[], ClusterState],
        clock: Callable[[], float] = time.time,
        *,
        settle_seconds: float = 0.0,
    ) -> None:
        """It grants nothing for `settle_seconds`: owners that knew its predecessor report first."""
        self._look, self._clock = look, clock
        self._opens = clock() + settle_seconds
        self._owners: dict[str, _Owner] = {}
        self._overtaken: dict[Key, tuple[int, float]] = {}  # how often, since when
        self._groups: dict[Key, str] = {}  # placement group of an admitted run
        self._foreign_groups: dict[Key, frozenset[str]] = {}  # that were there before its grant

    def update(
        self,
        owner: str,
        now: float,
        requests: Sequence[RunRequest],
        *,
        held: Sequence[RunAllocation],
        job: str = "",
    ) -> QueueReply:
        """The reply to an owner that waits for `requests` and runs `held`, by its own clock `now`.

        A grant is repeated until the owner holds it or no longer requests it. `job` is the id of
        the owner's Ray job, with which it ends.
        """
        clock = self._clock()
        shift = clock - now
        state = self._owners.setdefault(owner, _Owner(clock, job))
        state.seen = clock
        state.held = {
            item.request.id: replace(item, ends=item.ends + shift, nodes=()) for item in held
        }
        state.requests = {
            item.id: replace(item, owner=owner, since=item.since + shift) for item in requests
        }
        state.granted = {
            key: grant for key, grant in state.granted.items() if key in state.requests
        }
        waits = self._decide(clock)
        return QueueReply(
            {key: grant.workers for key, grant in state.granted.items()},
            {key: wait for (name, key), wait in waits.items() if name == owner},
        )

    def leave(self, owner: str) -> bool:
        """Remove an owner; whether none is left."""
        self._owners.pop(owner, None)
        return not self._owners

    def _decide(self, now: float) -> dict[Key, Wait]:
        self._owners = {
            name: state for name, state in self._owners.items() if now - state.seen <= OWNER_SECONDS
        }
        if now < self._opens:
            wait = Wait(
                "waits for the cluster's queue, which has just started, to hear all drivers"
            )
            return {
                (name, key): wait for name, state in self._owners.items() for key in state.requests
            }
        cluster = self._look()
        self._owners = {
            name: state for name, state in self._owners.items()
            if state.job not in cluster.ended_jobs
        }  # fmt: skip
        requests = [
            self._with_age(request)
            for state in self._owners.values()
            for key, request in state.requests.items()
            if key not in state.granted
        ]
        decision = admit(cluster.nodes, self._holdings(cluster), requests, now=now)
        for grant in decision.grants:
            request = grant.request
            key = request.owner, request.id
            holding = RunAllocation(request, grant.workers, grant.ends)
            self._owners[request.owner].granted[request.id] = holding
            self._foreign_groups[key] = frozenset(group.id for group in cluster.groups)
            log.info("%s of %s: granted %d workers", request.name, request.owner, grant.workers)
        self._overtaken = {
            (request.owner, request.id): self._age(request, now, decision.overtaken)
            for request in requests
            if (request.owner, request.id) in decision.waits
        }
        return decision.waits

    def _with_age(self, request: RunRequest) -> RunRequest:
        count, since = self._overtaken.get((request.owner, request.id), (0, 0.0))
        return replace(request, overtaken=count, overtaken_since=since if count else None)

    def _age(self, request: RunRequest, now: float, overtaken: frozenset[Key]) -> tuple[int, float]:
        since = now if request.overtaken_since is None else request.overtaken_since
        return request.overtaken + ((request.owner, request.id) in overtaken), since

    def _holdings(self, cluster: ClusterState) -> list[RunAllocation]:
        """All admitted runs, each with the nodes of its placement group.

        Ray's groups do not name their run, so a run is matched with a group of its shape that came
        after its grant. Of two alike it does not matter which is whose.
        """
        admitted = {
            (name, key): holding
            for name, state in sorted(self._owners.items())
            for key, holding in (state.granted | state.held).items()
        }
        groups = {group.id: group for group in cluster.groups}
        # A group that its run has left may be the next one's: of a process that stays.
        left = {g for key, g in self._groups.items() if key not in admitted or g not in groups}
        self._groups = {key: group for key, group in self._groups.items() if group not in left}
        self._foreign_groups = {
            key: ids - left for key, ids in self._foreign_groups.items() if key in admitted
        }
        free = {key: group for key, group in groups.items() if key not in self._groups.values()}
        for key, holding in admitted.items():
            if key in self._groups:
                continue
            foreign = self._foreign_groups.get(key, frozenset())
            for group in sorted(free.values(), key=lambda group: (-len(group.nodes), group.id)):
                if group.id not in foreign and group.suits(holding.request, holding.workers):
                    self._groups[key] = free.pop(group.id).id
                    break
        return [
            replace(holding, nodes=groups[self._groups[key]].nodes)
            if key in self._groups
            else holding
            for key, holding in admitted.items()
        ]
