"""Which waiting runs start now on a cluster that many share: values in, values out.

Order: priority, then the largest, then who came first. The first run that cannot start has a
reservation at the time when the running ones are expected to have left it enough; another one may
start before it only where that delays nothing (EASY backfilling). Estimates can be wrong, so a run
that was overtaken often enough, or long enough ago, closes the nodes that it can use to all that
come after it: it starts at the latest when those that run on them now have ended. Priority is
absolute: such a run overtakes its like, and none of higher priority.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from orchestration.cluster import wait_reasons as words
from orchestration.cluster.packing import (
    Free,
    Holding,
    Node,
    Request,
    both,
    eligible,
    free_now,
    most_workers,
    pack,
    without,
)


@dataclass(frozen=True)
class Rules:
    """How long a run is overtaken, and how long an elastic one waits for all its workers."""

    overtakes: int = 20
    overtaken_seconds: float = 1800.0
    elastic_seconds: float = 60.0


@dataclass(frozen=True)
class Grant:
    """A run may start, with so many workers; for them these nodes were free."""

    request: Request
    workers: int
    nodes: tuple[str, ...]
    ends: float  # expected


@dataclass(frozen=True)
class Wait:
    """Why a run does not start yet.

    `too_large`: the cluster could not even carry it alone; `others`: runs of other owners go on.
    """

    why: str
    too_large: bool = False
    others: bool = False


@dataclass(frozen=True)
class Decision:
    """What starts now, why each of the others waits (by owner and id), and who was overtaken."""

    grants: tuple[Grant, ...]
    waits: dict[tuple[str, str], Wait]
    overtaken: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class _Reservation:
    """The first run that waits: when it is expected to start, and what it will leave."""

    request: Request
    start: float
    spare: Free


def admit(
    nodes: Sequence[Node],
    holdings: Sequence[Holding],
    requests: Iterable[Request],
    now: float,
    rules: Rules | None = None,
) -> Decision:
    """Decide on all requests at `now` (seconds, the clock of `since` and `ends`).

    The same values give the same decision, in whatever order they come.
    """
    rules = rules or Rules()
    return _Round(nodes, holdings, now, rules).decide(sorted(requests, key=_order(now, rules)))


def has_aged(request: Request, now: float, rules: Rules) -> bool:
    """Whether nothing may overtake the run any more."""
    since = request.overtaken_since
    long_ago = since is not None and now - since >= rules.overtaken_seconds
    return request.overtaken >= rules.overtakes or long_ago


def _order(now: float, rules: Rules) -> Callable[[Request], tuple[float | str, ...]]:
    def key(request: Request) -> tuple[float | str, ...]:
        aged = has_aged(request, now, rules)
        place = (0, request.since, -request.size) if aged else (1, -request.size, request.since)
        return (-request.priority, *place, request.owner, request.id)

    return key


class _Round:
    """The state of one decision."""

    def __init__(
        self, nodes: Sequence[Node], holdings: Sequence[Holding], now: float, rules: Rules
    ) -> None:
        self.nodes = sorted((node for node in nodes if node.alive), key=lambda node: node.id)
        self.now, self.rules = now, rules
        self.holdings = sorted(holdings, key=lambda h: (h.ends, h.request.owner, h.request.id))
        self.free = free_now(self.nodes, self.holdings)
        self.closed: dict[str, Request] = {}  # node -> for whom it is kept
        self.runs_of = Counter(holding.request.owner for holding in holdings)
        self.reservation: _Reservation | None = None
        self.grants: list[Grant] = []
        self.waits: dict[tuple[str, str], Wait] = {}
        self._failed: dict[tuple[object, ...], tuple[float, Wait]] = {}
        self._keep_for_the_unplaced()

    def decide(self, ordered: Sequence[Request]) -> Decision:
        """All requests, the first one first."""
        places: dict[tuple[str, str], int] = {}
        for place, request in enumerate(ordered):
            places[request.owner, request.id] = place
            wait = self._known(request)
            if wait is None and (wait := self._try(request)) is not None:
                self._failed[self._shape(request)] = request.seconds, wait
            if wait is not None:
                self.waits[request.owner, request.id] = wait
        overtaken = {
            (request.owner, request.id) for request in ordered if self._overtaken(request, places)
        }
        return Decision(tuple(self.grants), self.waits, frozenset(overtaken))

    def _shape(self, request: Request) -> tuple[object, ...]:
        """All but its duration that decides whether a request can start."""
        needs = request.workers, request.cpus, request.gpus, *sorted(request.labels.items())
        return (request.owner, request.least, self._content_with(request), request.at_once, *needs)

    def _known(self, request: Request) -> Wait | None:
        """As another of its shape waits, so does one that is no shorter: a round only takes.

        Of hundreds of runs most are alike.
        """
        seconds, wait = self._failed.get(self._shape(request), (0.0, None))
        return wait if request.seconds >= seconds else None

    def _keep_for_the_unplaced(self) -> None:
        """Admitted runs that Ray has not placed yet: their share is not free."""
        placed = [holding for holding in self.holdings if holding.placed]
        for holding in self.holdings:
            if holding.placed:
                continue
            request = holding.request
            found = pack(request, holding.workers, self.nodes, self.free)
            if found is None:  # Ray placed others elsewhere than thought: it comes before all
                self._close(request)
            else:
                self.free = without(self.free, request, found)
                placed.append(Holding(request, holding.workers, holding.ends, found))
        self.holdings = sorted(placed, key=lambda h: (h.ends, h.request.owner, h.request.id))

    def _close(self, request: Request) -> None:
        for node in eligible(request, self.nodes):
            self.closed.setdefault(node.id, request)

    def _try(self, request: Request) -> Wait | None:
        """Grant the request, or say why it waits (and keep what it needs, where that helps)."""
        if most_workers(request, self.nodes, self._whole()) < request.least:
            return Wait(words.too_large(request, self.nodes), too_large=True)
        if self._at_limit(request):
            return Wait(words.own_limit(request))
        if self._granted(request):
            return None
        why = self._why(request)
        emptied = self._after(self.holdings)
        if most_workers(request, self.nodes, emptied) >= request.least:
            if self.reservation is None:
                self._reserve(request)
            if has_aged(request, self.now, self.rules):
                self._close(request)
        return Wait(why, others=any(owner != request.owner for owner in self.runs_of))

    def _why(self, request: Request) -> str:
        wanted = self._most_wanted(request, self._whole())
        if pack(request, wanted, self.nodes, self.free) is None:
            return words.busy(request, self.nodes, self.free, self.holdings, self.now)
        keeper = next(
            (self.closed[n.id] for n in eligible(request, self.nodes) if n.id in self.closed), None
        )
        if keeper is None and self.reservation is not None:
            keeper = self.reservation.request
        if keeper is None:  # an elastic run, for which some of its workers would fit
            return words.busy(request, self.nodes, self.free, self.holdings, self.now)
        return words.its_turn(request, keeper)

    def _granted(self, request: Request) -> bool:
        for free, limit in self._offers():
            workers = self._fitting(request, free)
            if not workers:
                continue
            ends = self.now + request.seconds * request.workers / workers
            if limit is not None and ends > limit:
                continue
            found = pack(request, workers, self.nodes, free)
            assert found is not None
            self._take(request, found, ends, uses_spare=limit is None)
            return True
        return False

    def _offers(self) -> list[tuple[Free, float | None]]:
        """What may be taken, and by when it must be given back."""
        free = {node: (0.0, 0.0) if node in self.closed else f for node, f in self.free.items()}
        if self.reservation is None:
            return [(free, None)]
        return [(free, self.reservation.start), (both(free, self.reservation.spare), None)]

    def _fitting(self, request: Request, free: Free) -> int:
        """How many workers the request gets of what is free; 0 where it goes on waiting."""
        found = most_workers(request, self.nodes, free)
        return found if found >= self._content_with(request) else 0

    def _content_with(self, request: Request) -> int:
        patient = self.now - request.since < self.rules.elastic_seconds
        return request.workers if patient else request.least

    def _most_wanted(self, request: Request, free: Free) -> int:
        """The workers to count on: all, or as many as there can ever be."""
        return min(self._content_with(request), most_workers(request, self.nodes, free))

    def _take(
        self, request: Request, found: tuple[str, ...], ends: float, *, uses_spare: bool
    ) -> None:
        self.grants.append(Grant(request, len(found), found, ends))
        self.holdings.append(Holding(request, len(found), ends, found))
        self.holdings.sort(key=lambda h: (h.ends, h.request.owner, h.request.id))
        self.free = without(self.free, request, found)
        self.runs_of[request.owner] += 1
        if self.reservation is not None and uses_spare:
            kept = self.reservation
            spare = without(kept.spare, request, found)
            self.reservation = _Reservation(kept.request, kept.start, spare)

    def _reserve(self, request: Request) -> None:
        """The earliest time at which those that end have left enough for the request."""
        wanted = self._most_wanted(request, self._after(self.holdings))
        for count in range(len(self.holdings) + 1):
            ended = self.holdings[:count]
            free = self._after(ended)
            found = pack(request, wanted, self.nodes, free)
            if found is not None:
                start = max([self.now, *(holding.ends for holding in ended)])
                self.reservation = _Reservation(request, start, without(free, request, found))
                return

    def _after(self, ended: Iterable[Holding]) -> Free:
        free = self.free
        for holding in ended:
            free = without(free, holding.request, holding.nodes, +1)
        return free

    def _whole(self) -> Free:
        return {node.id: (node.cpus, node.gpus) for node in self.nodes}

    def _at_limit(self, request: Request) -> bool:
        return request.at_once is not None and self.runs_of[request.owner] >= request.at_once

    def _overtaken(self, request: Request, places: dict[tuple[str, str], int]) -> bool:
        """Whether a run started on nodes that suit this one, which waits and came before it."""
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
                (first and places[grant.request.owner, grant.request.id] > places[key])
                or grant.request.since > request.since
            )
            and not suiting.isdisjoint(grant.nodes)
            for grant in self.grants
        )
