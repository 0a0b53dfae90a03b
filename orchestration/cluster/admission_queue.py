"""The queue of one cluster: what every driver runs and wants to run, and what may start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from orchestration.cluster.admission import Rules, Wait, admit
from orchestration.cluster.packing import ClusterState, Holding, Request

OWNER_SECONDS = 60.0  # one that has not called for so long is dead

Key = tuple[str, str]  # owner, request


@dataclass(frozen=True)
class Answer:
    """To one owner: workers of its admitted runs, by id, and why each of the others waits."""

    granted: dict[str, int]
    waits: dict[str, Wait]


@dataclass
class _Owner:
    seen: float
    requests: dict[str, Request] = field(default_factory=dict)
    held: dict[str, Holding] = field(default_factory=dict)
    granted: dict[str, Holding] = field(default_factory=dict)


class AdmissionQueue:
    """Holds nothing that its callers do not tell it again with every call.

    So it can die and be made again: what runs and what waits is known after a call of each owner.
    """

    def __init__(
        self,
        look: Callable[[], ClusterState],
        rules: Rules | None = None,
        clock: Callable[[], float] = time.time,
        settle_seconds: float = 0.0,
    ) -> None:
        """A queue that others may know of already hears them for `settle_seconds` before it grants
        anything."""
        self._look, self._rules, self._clock = look, rules or Rules(), clock
        self._opens = clock() + settle_seconds
        self._owners: dict[str, _Owner] = {}
        self._overtaken: dict[Key, tuple[int, float]] = {}  # how often, since when
        self._groups: dict[Key, str] = {}  # placement group of an admitted run
        self._strangers: dict[Key, frozenset[str]] = {}  # groups that were there before its grant

    def update(
        self, owner: str, now: float, requests: Sequence[Request], held: Sequence[Holding]
    ) -> Answer:
        """All that an owner wants to start and all that it runs, by its own clock `now`.

        A grant is repeated until the owner holds it, or wants it no more.
        """
        clock = self._clock()
        shift = clock - now
        state = self._owners.setdefault(owner, _Owner(clock))
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
        return Answer(
            {key: grant.workers for key, grant in state.granted.items()},
            {key: wait for (name, key), wait in waits.items() if name == owner},
        )

    def leave(self, owner: str) -> bool:
        """The owner has ended; whether none is left."""
        self._owners.pop(owner, None)
        return not self._owners

    def _decide(self, now: float) -> dict[Key, Wait]:
        self._owners = {
            name: state for name, state in self._owners.items() if now - state.seen <= OWNER_SECONDS
        }
        if now < self._opens:
            wait = Wait("waits for the cluster's queue, which has just begun, to hear all drivers")
            return {
                (name, key): wait for name, state in self._owners.items() for key in state.requests
            }
        cluster = self._look()
        requests = [
            self._with_age(request)
            for state in self._owners.values()
            for key, request in state.requests.items()
            if key not in state.granted
        ]
        decision = admit(cluster.nodes, self._holdings(cluster), requests, now, self._rules)
        for grant in decision.grants:
            request = grant.request
            key = request.owner, request.id
            holding = Holding(request, grant.workers, grant.ends)
            self._owners[request.owner].granted[request.id] = holding
            self._strangers[key] = frozenset(group.id for group in cluster.groups)
        self._overtaken = {
            (request.owner, request.id): self._age(request, now, decision.overtaken)
            for request in requests
            if (request.owner, request.id) in decision.waits
        }
        return decision.waits

    def _with_age(self, request: Request) -> Request:
        count, since = self._overtaken.get((request.owner, request.id), (0, 0.0))
        return replace(request, overtaken=count, overtaken_since=since if count else None)

    def _age(self, request: Request, now: float, overtaken: frozenset[Key]) -> tuple[int, float]:
        since = now if request.overtaken_since is None else request.overtaken_since
        return request.overtaken + ((request.owner, request.id) in overtaken), since

    def _holdings(self, cluster: ClusterState) -> list[Holding]:
        """All admitted runs, each at the nodes of its placement group.

        Ray's groups do not tell their run: a run takes one of its shape that came after its grant.
        Of two alike it does not matter which is whose.
        """
        admitted = {
            (name, key): holding
            for name, state in sorted(self._owners.items())
            for key, holding in (state.granted | state.held).items()
        }
        groups = {group.id: group for group in cluster.groups}
        self._groups = {
            key: group for key, group in self._groups.items() if key in admitted and group in groups
        }
        self._strangers = {k: known for k, known in self._strangers.items() if k in admitted}
        free = {key: group for key, group in groups.items() if key not in self._groups.values()}
        for key, holding in admitted.items():
            if key in self._groups:
                continue
            before = self._strangers.get(key, frozenset())
            for group in sorted(free.values(), key=lambda group: (-len(group.nodes), group.id)):
                if group.id not in before and group.carries(holding.request, holding.workers):
                    self._groups[key] = free.pop(group.id).id
                    break
        return [
            replace(holding, nodes=groups[self._groups[key]].nodes)
            if key in self._groups
            else holding
            for key, holding in admitted.items()
        ]
