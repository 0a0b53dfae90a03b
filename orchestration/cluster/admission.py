"""Which waiting runs start now on a shared cluster: a pure function of the cluster and the queue.

Order: priority, then the largest, then the earliest. The first run that cannot start gets a
reservation for the time when running ones are expected to have released enough for it; another run
may start before it only where that does not delay it (EASY backfilling, Lifka 1995). Estimates can
be wrong, so a run that was overtaken often enough, or long enough ago, closes the nodes that it can
use to all runs after it: it starts at the latest when the present ones on those nodes have ended.
Priority is absolute: such a run comes before others of its priority, never before higher ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from orchestration.cluster import wait_reasons
from orchestration.cluster.packing import (
    FreeResources,
    Node,
    RunAllocation,
    RunRequest,
    eligible,
    free_in_both,
    free_now,
    most_workers,
    pack,
    without,
)


@dataclass(frozen=True)
class AdmissionRules:
    """When a run may not be overtaken any more, and how long an elastic one waits for all of its
    workers. Chosen values."""

    overtakes: int = 20
    overtaken_seconds: float = 1800.0
    elastic_seconds: float = 60.0


RULES = AdmissionRules()


@dataclass(frozen=True)
class Grant:
    """A run may start with `workers` workers, for which these nodes are free."""

    request: RunRequest
    workers: int
    nodes: tuple[str, ...]
    ends: float  # expected


@dataclass(frozen=True)
class Wait:
    """Why a run does not start yet.

    `too_large`: the cluster could not hold it even if it were empty; `others`: other owners have
    runs on it.
    """

    why: str
    too_large: bool = False
    others: bool = False


@dataclass(frozen=True)
class AdmissionDecision:
    """Which runs start now, why each other one waits, and which were overtaken (owner and id)."""

    grants: tuple[Grant, ...]
    waits: dict[tuple[str, str], Wait]
    overtaken: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class _Reservation:
    """The first run that waits, when it is expected to start, and what will then still be free."""

    request: RunRequest
    start: float
    spare: FreeResources


def admit(
    nodes: Sequence[Node],
    holdings: Sequence[RunAllocation],
    requests: Iterable[RunRequest],
    *,
    now: float,
    rules: AdmissionRules = RULES,
) -> AdmissionDecision:
    """The decision on all requests at `now` (seconds, by the clock of `since` and `ends`).

    It does not depend on the order of the arguments' items.
    """
    return _Round(nodes, holdings, now, rules=rules).decide(
        sorted(requests, key=_order(now, rules))
    )


def has_aged(request: RunRequest, now: float, rules: AdmissionRules) -> bool:
    """Whether nothing may overtake the run any more."""
    since = request.overtaken_since
    long_ago = since is not None and now - since >= rules.overtaken_seconds
    return request.overtaken >= rules.overtakes or long_ago


def _order(now: float, rules: AdmissionRules) -> Callable[[RunRequest], tuple[float | str, ...]]:
    def key(request: RunRequest) -> tuple[float | str, ...]:
        aged = has_aged(request, now, rules)
        rank = (0, request.since, -request.size) if aged else (1, -request.size, request.since)
        return (-request.priority, *rank, request.owner, request.id)

    return key


class _Round:
    """The state of one decision."""

    def __init__(
        self,
        nodes: Sequence[Node],
        holdings: Sequence[RunAllocation],
        now: float,
        *,
        rules: AdmissionRules,
    ) -> None:
        self.nodes = sorted((node for node in nodes if node.alive), key=lambda node: node.id)
        self.now, self.rules = now, rules
        self.holdings = sorted(holdings, key=lambda h: (h.ends, h.request.owner, h.request.id))
        self.free = free_now(self.nodes, self.holdings)
        self.closed: dict[str, RunRequest] = {}  # node -> for whom it is kept
        self.runs_of = Counter(holding.request.owner for holding in holdings)
        self.reservation: _Reservation | None = None
        self.grants: list[Grant] = []
        self.waits: dict[tuple[str, str], Wait] = {}
        self._failed: dict[tuple[object, ...], tuple[float, Wait]] = {}
        self._reserve_unplaced()

    def decide(self, ordered: Sequence[RunRequest]) -> AdmissionDecision:
        """Decide on the requests, in this order."""
        positions: dict[tuple[str, str], int] = {}
        for position, request in enumerate(ordered):
            positions[request.owner, request.id] = position
            wait = self._known(request)
            if wait is None and (wait := self._try(request)) is not None:
                self._failed[self._shape(request)] = request.seconds, wait
            if wait is not None:
                self.waits[request.owner, request.id] = wait
        overtaken = {
            (request.owner, request.id)
            for request in ordered
            if self._overtaken(request, positions)
        }
        return AdmissionDecision(tuple(self.grants), self.waits, frozenset(overtaken))

    def _shape(self, request: RunRequest) -> tuple[object, ...]:
        """Everything that decides whether a request can start, except its duration."""
        needs = request.workers, request.cpus, request.gpus, *sorted(request.labels.items())
        fewest = request.min_workers_needed, self._accepts_workers(request)
        return (request.owner, *fewest, request.at_once, *needs)

    def _known(self, request: RunRequest) -> Wait | None:
        """The verdict on an identical request that failed this round, or None.

        Resources only shrink within a round, so a request that runs at least as long fails too. Of
        hundreds of runs most are alike.
        """
        seconds, wait = self._failed.get(self._shape(request), (0.0, None))
        return wait if request.seconds >= seconds else None

    def _reserve_unplaced(self) -> None:
        """Take away what admitted runs need that Ray has not placed yet."""
        placed = [holding for holding in self.holdings if holding.placed]
        for holding in self.holdings:
            if holding.placed:
                continue
            request = holding.request
            nodes = pack(request, holding.workers, self.nodes, free=self.free)
            if nodes is None:  # Ray placed others elsewhere than expected: this one comes first
                self._close(request)
            else:
                self.free = without(self.free, request, nodes)
                placed.append(RunAllocation(request, holding.workers, holding.ends, nodes))
        self.holdings = sorted(placed, key=lambda h: (h.ends, h.request.owner, h.request.id))

    def _close(self, request: RunRequest) -> None:
        for node in eligible(request, self.nodes):
            self.closed.setdefault(node.id, request)

    def _try(self, request: RunRequest) -> Wait | None:
        """Grant the request (None), or give the reason why it waits and reserve what it needs."""
        if most_workers(request, self.nodes, self._whole()) < request.min_workers_needed:
            return Wait(wait_reasons.too_large(request, self.nodes), too_large=True)
        if self._at_limit(request):
            return Wait(wait_reasons.own_limit(request))
        if self._granted(request):
            return None
        why = self._why(request)
        emptied = self._after(self.holdings)
        if most_workers(request, self.nodes, emptied) >= request.min_workers_needed:
            if self.reservation is None:
                self._reserve(request)
            if has_aged(request, self.now, self.rules):
                self._close(request)
        return Wait(why, others=any(owner != request.owner for owner in self.runs_of))

    def _why(self, request: RunRequest) -> str:
        workers = self._expected_workers(request, self._whole())
        if pack(request, workers, self.nodes, free=self.free) is None:
            return wait_reasons.busy(
                request, self.nodes, self.free, holdings=self.holdings, now=self.now
            )
        keeper = next(
            (self.closed[n.id] for n in eligible(request, self.nodes) if n.id in self.closed), None
        )
        if keeper is None and self.reservation is not None:
            keeper = self.reservation.request
        if keeper is None:  # an elastic run: some of its workers would fit
            return wait_reasons.busy(
                request, self.nodes, self.free, holdings=self.holdings, now=self.now
            )
        return wait_reasons.its_turn(request, keeper)

    def _granted(self, request: RunRequest) -> bool:
        for free, limit in self._offers():
            workers = self._fitting(request, free)
            nodes = pack(request, workers, self.nodes, free=free) if workers else None
            if nodes is None:
                continue
            ends = self.now + request.seconds * request.workers / workers
            if limit is not None and ends > limit:
                continue
            self._take(request, nodes, ends, uses_spare=limit is None)
            return True
        return False

    def _offers(self) -> list[tuple[FreeResources, float | None]]:
        """Free resources that may be taken, each with the time by which they must be released."""
        free = {node: (0.0, 0.0) if node in self.closed else f for node, f in self.free.items()}
        if self.reservation is None:
            return [(free, None)]
        return [(free, self.reservation.start), (free_in_both(free, self.reservation.spare), None)]

    def _fitting(self, request: RunRequest, free: FreeResources) -> int:
        """Number of workers that the request gets of what is free; 0 where it keeps waiting."""
        fitting = most_workers(request, self.nodes, free)
        return fitting if fitting >= self._accepts_workers(request) else 0

    def _accepts_workers(self, request: RunRequest) -> int:
        """The fewest workers with which the request starts now: at first it waits for all."""
        patient = self.now - request.since < self.rules.elastic_seconds
        return request.workers if patient else request.min_workers_needed

    def _expected_workers(self, request: RunRequest, free: FreeResources) -> int:
        """The workers to plan for: those it accepts, or as many as there can ever be."""
        return min(self._accepts_workers(request), most_workers(request, self.nodes, free))

    def _take(
        self, request: RunRequest, nodes: tuple[str, ...], ends: float, *, uses_spare: bool
    ) -> None:
        self.grants.append(Grant(request, len(nodes), nodes, ends))
        self.holdings.append(RunAllocation(request, len(nodes), ends, nodes))
        self.holdings.sort(key=lambda h: (h.ends, h.request.owner, h.request.id))
        self.free = without(self.free, request, nodes)
        self.runs_of[request.owner] += 1
        if self.reservation is not None and uses_spare:
            spare = without(self.reservation.spare, request, nodes)
            self.reservation = replace(self.reservation, spare=spare)

    def _reserve(self, request: RunRequest) -> None:
        """Reserve the earliest time at which ended runs have released enough for the request."""
        workers = self._expected_workers(request, self._after(self.holdings))
        for count in range(len(self.holdings) + 1):
            ended = self.holdings[:count]
            free = self._after(ended)
            nodes = pack(request, workers, self.nodes, free=free)
            if nodes is not None:
                start = max([self.now, *(holding.ends for holding in ended)])
                self.reservation = _Reservation(request, start, without(free, request, nodes))
                return

    def _after(self, ended: Iterable[RunAllocation]) -> FreeResources:
        free = self.free
        for holding in ended:
            free = without(free, holding.request, holding.nodes, sign=+1)
        return free

    def _whole(self) -> FreeResources:
        return {node.id: (node.cpus, node.gpus) for node in self.nodes}

    def _at_limit(self, request: RunRequest) -> bool:
        return request.at_once is not None and self.runs_of[request.owner] >= request.at_once

    def _overtaken(self, request: RunRequest, positions: dict[tuple[str, str], int]) -> bool:
        """Whether a later run was started on nodes that this one, which waits, could use."""
        key = (request.owner, request.id)
        if not self.grants or key not in self.waits or self.waits[key].too_large:
            return False
        if self._at_limit(request):
            return False
        suiting = {node.id for node in eligible(request, self.nodes)}
        first = self.reservation is not None and self.reservation.request == request
        return any(
            grant.request.priority <= request.priority
            and (
                (first and positions[grant.request.owner, grant.request.id] > positions[key])
                or grant.request.since > request.since
            )
            and not suiting.isdisjoint(grant.nodes)
            for grant in self.grants
        )
