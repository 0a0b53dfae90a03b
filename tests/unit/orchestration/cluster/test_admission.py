"""The admission policy: what fits, who comes first, who is overtaken, and what a run waits for."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from orchestration.cluster.admission import AdmissionDecision, AdmissionRules, admit
from orchestration.cluster.packing import (
    SLACK,
    Node,
    RunAllocation,
    RunRequest,
    eligible,
    free_now,
    matches,
    most_workers,
)

H100 = {"ray.io/accelerator-type": "H100"}


def node(name: str, cpus: float = 4, gpus: float = 0, **labels: str) -> Node:
    return Node(name, cpus, gpus, cpus, gpus, labels)


def run(name: str, workers: int = 1, size: float = 1.0, **values: object) -> RunRequest:
    given = {
        "owner": "me", "study": "mine", "cpus": 1.0, "gpus": 0.0, "seconds": 100.0, "since": 0.0,
    }  # fmt: skip
    return RunRequest(id=name, name=name, workers=workers, size=size, **{**given, **values})  # type: ignore[arg-type]


def names(decision: AdmissionDecision) -> list[str]:
    return [grant.request.id for grant in decision.grants]


def why(decision: AdmissionDecision, name: str, owner: str = "me") -> str:
    return decision.waits[owner, name].why


PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # shrinking takes minutes

# What the cluster, those that run and those that wait look like.
LABELS = st.sampled_from([{}, {"kind": "a"}, {"kind": "b"}])
NODES = st.lists(
    st.builds(
        lambda cpus, gpus, busy, labels, alive: (cpus, gpus, min(busy, cpus), labels, alive),
        st.integers(1, 8), st.integers(0, 4), st.integers(0, 4), LABELS, st.booleans(),
    ),
    min_size=1, max_size=4,
).map(
    lambda made: [
        Node(f"n{i}", cpus, gpus, cpus - busy, gpus, labels, alive)
        for i, (cpus, gpus, busy, labels, alive) in enumerate(made)
    ]
)  # fmt: skip
SHAPES = st.builds(
    run,
    st.just(""),
    st.integers(1, 6),
    st.sampled_from([1.0, 2.0, 3.0]),
    owner=st.sampled_from(["one", "two"]),
    cpus=st.sampled_from([0.5, 1.0, 2.0]),
    gpus=st.sampled_from([0.0, 0.5, 1.0]),
    labels=LABELS,
    priority=st.integers(0, 2),
    seconds=st.sampled_from([10.0, 100.0, 1000.0]),
    since=st.sampled_from([-1000.0, -10.0, 0.0]),
    min_workers=st.sampled_from([None, 1]),
    overtaken=st.sampled_from([0, 0, 50]),
)
REQUESTS = st.lists(SHAPES, max_size=8).map(
    lambda made: [
        replace(item, id=f"r{i}", at_once=2 if item.owner == "two" else None)
        for i, item in enumerate(made)
    ]
)
UNPLACED = st.lists(SHAPES, max_size=2).map(
    lambda made: [
        RunAllocation(replace(item, id=f"h{i}"), item.workers, 50.0) for i, item in enumerate(made)
    ]
)


@settings(max_examples=60, phases=PHASES)
@given(NODES, UNPLACED, REQUESTS)
def test_what_is_admitted_fits(
    nodes: list[Node], held: list[RunAllocation], requests: list[RunRequest]
) -> None:
    """Whole workers on nodes that live and have the labels, within what is free; limits hold."""
    decision = admit(nodes, held, requests, now=0.0)
    known = {item.id: item for item in nodes}
    taken = {item.id: [0.0, 0.0] for item in nodes}
    for grant in decision.grants:
        request = grant.request
        assert len(grant.nodes) == grant.workers
        assert request.min_workers_needed <= grant.workers <= request.workers
        for place in grant.nodes:
            assert known[place].alive
            assert matches(request.labels, known[place].labels)
            taken[place][0] += request.cpus
            taken[place][1] += request.gpus
    for place, (cpus, gpus) in taken.items():
        assert cpus <= known[place].free_cpus + SLACK
        assert gpus <= known[place].free_gpus + SLACK
    held_by_two = sum(holding.request.owner == "two" for holding in held)
    started = sum(grant.request.owner == "two" for grant in decision.grants)
    assert started <= max(0, 2 - held_by_two)
    answered = {(grant.request.owner, grant.request.id) for grant in decision.grants}
    assert answered | set(decision.waits) == {(item.owner, item.id) for item in requests}
    assert not answered & set(decision.waits)


@settings(max_examples=60, phases=PHASES)
@given(NODES, UNPLACED, REQUESTS, st.randoms(use_true_random=False))
def test_the_same_values_give_the_same_decision(
    nodes: list[Node], held: list[RunAllocation], requests: list[RunRequest], shuffler: object
) -> None:
    first = admit(nodes, held, requests, now=0.0)
    for values in (nodes, held, requests):
        shuffler.shuffle(values)  # type: ignore[attr-defined]
    second = admit(nodes, held, requests, now=0.0)
    assert first == second
    assert names(first) == names(second)


@settings(max_examples=60, phases=PHASES)
@given(NODES, REQUESTS)
def test_the_most_important_waits_for_no_lesser_one(
    nodes: list[Node], requests: list[RunRequest]
) -> None:
    """What lesser runs got would not have been enough for the highest priority that waits."""
    decision = admit(nodes, [], requests, now=0.0)
    whole = {item.id: (item.cpus, item.gpus) for item in nodes if item.alive}
    alive = [item for item in nodes if item.alive]
    waiting = [
        item for item in requests
        if (item.owner, item.id) in decision.waits
        and most_workers(item, alive, whole) >= item.min_workers_needed
    ]  # fmt: skip
    highest = max((item.priority for item in waiting), default=0)
    first = [item for item in waiting if item.priority == highest]
    if len(first) != 1 or first[0].at_once is not None:
        return
    (request,) = first
    better = [
        RunAllocation(grant.request, grant.workers, grant.ends, grant.nodes)
        for grant in decision.grants
        if grant.request.priority >= request.priority
    ]
    free = free_now(alive, [])
    for holding in better:
        for place in holding.nodes:
            cpus, gpus = free[place]
            free[place] = (cpus - holding.request.cpus, gpus - holding.request.gpus)
    content = (
        request.min_workers_needed
        if -request.since >= AdmissionRules().elastic_seconds
        else request.workers
    )
    assert most_workers(request, alive, free) < content


class Simulation:
    """Nodes of four CPUs; small runs come without end and take `lie` times what they say."""

    def __init__(self, lie: float, rules: AdmissionRules) -> None:
        self.nodes = [node("a"), node("b")]
        self.lie, self.rules = lie, rules
        self.waiting: dict[str, RunRequest] = {}
        self.running: list[tuple[float, RunAllocation]] = []  # with the true end
        self.started: dict[str, float] = {}

    def step(self, now: float) -> None:
        self.running = [item for item in self.running if item[0] > now]
        held = [holding for _, holding in self.running]
        free = free_now(self.nodes, held)
        seen = [replace(n, free_cpus=free[n.id][0], free_gpus=free[n.id][1]) for n in self.nodes]
        decision = admit(seen, held, self.waiting.values(), now=now, rules=self.rules)
        for grant in decision.grants:
            del self.waiting[grant.request.id]
            self.started[grant.request.id] = now
            ends = now + grant.request.seconds * self.lie
            held_by = RunAllocation(grant.request, grant.workers, grant.ends, grant.nodes)
            self.running.append((ends, held_by))
        for _, name in decision.overtaken:
            request = self.waiting[name]
            since = now if request.overtaken_since is None else request.overtaken_since
            self.waiting[name] = replace(
                request, overtaken=request.overtaken + 1, overtaken_since=since
            )


@pytest.mark.parametrize("lie", [1.0, 50.0, 0.2])
@pytest.mark.parametrize(("workers", "size"), [(8, 100.0), (8, 0.01), (5, 100.0)])
def test_a_large_run_starts_in_a_stream_of_small_ones(
    lie: float, workers: int, size: float
) -> None:
    """After so many overtakes, and after the runs that were admitted before, however they lie."""
    rules = AdmissionRules(overtakes=5, overtaken_seconds=1e9)
    world = Simulation(lie, rules)
    for now in range(3000):
        if len(world.waiting) < 4:  # there is always one that waits
            world.waiting[f"s{now}"] = run(f"s{now}", seconds=7.0, since=float(now))
        if now == 20:
            world.waiting["large"] = run("large", workers, size, since=20.0)
        world.step(float(now))
        if "large" in world.started:
            break
    # Five overtakes, each of a second or a whole generation of runs; then one generation drains.
    assert world.started["large"] <= 20 + (5 + 2) * max(7.0 * lie, 1.0) + 1
    assert len(world.started) > 8


def test_time_ends_overtaking_too() -> None:
    rules = AdmissionRules(overtakes=10**9, overtaken_seconds=60.0)
    world = Simulation(50.0, rules)
    for now in range(3000):
        if len(world.waiting) < 4:  # there is always one that waits
            world.waiting[f"s{now}"] = run(f"s{now}", seconds=7.0, since=float(now))
        if now == 20:
            world.waiting["large"] = run("large", 8, 0.01, since=20.0)
        world.step(float(now))
        if "large" in world.started:
            break
    assert world.started["large"] <= 20 + 60 + 2 * 350


def test_hundreds_of_runs_are_decided_on_in_a_moment() -> None:
    nodes = [node(f"n{i:02d}", 64, 8) for i in range(64)]
    held = [
        RunAllocation(run(f"h{i}", 8, gpus=1.0), 8, 100.0 + i, (f"n{i:02d}",) * 8)
        for i in range(60)
    ]
    nodes = [replace(n, free_gpus=8 * (i >= 60), free_cpus=56) for i, n in enumerate(nodes)]
    waiting = [
        run(f"r{i}", 64, float(i % 7), gpus=1.0, seconds=50.0 + i % 7, since=-float(i))
        for i in range(500)
    ]
    before = time.process_time()
    decision = admit(nodes, held, waiting, now=0.0)
    assert len(decision.waits) == 500
    assert time.process_time() - before < 0.5


def busy_node(**held: float) -> tuple[list[Node], list[RunAllocation]]:
    """Eight CPUs; runs of so many workers end at 100, 200, ..."""
    used = sum(held.values())
    holdings = [
        RunAllocation(run(name, int(workers)), int(workers), 100.0 * (i + 1), ("a",) * int(workers))
        for i, (name, workers) in enumerate(held.items())
    ]
    return [Node("a", 8, 0, 8 - used, 0)], holdings


def test_backfilling_delays_no_reservation() -> None:
    """6 free at 100; the large one (6) starts then: only what has ended by then goes before."""
    nodes, held = busy_node(first=4, second=2)  # 2 are free
    large = run("large", 6, 10.0)
    short, long = run("short", 2, 1.0, seconds=99.0), run("long", 2, 1.0, seconds=101.0)
    assert names(admit(nodes, held, [large, short], now=0.0)) == ["short"]
    assert names(admit(nodes, held, [large, long], now=0.0)) == []
    # One that leaves the large run its six is no delay, however long.
    nodes, held = busy_node(first=5)  # 3 are free, 8 at 100
    assert names(admit(nodes, held, [large, long], now=0.0)) == ["long"]
    decision = admit(nodes, held, [large, long, replace(long, id="again")], now=0.0)
    assert names(decision) == ["again"]  # a second would
    assert decision.overtaken == {("me", "large")}


def test_an_aged_run_closes_only_the_nodes_that_it_can_use() -> None:
    nodes = [node("a", 4, kind="a"), node("b", 4, kind="b")]
    held = [RunAllocation(run("old", 2), 2, 100.0, ("a", "a"))]
    nodes[0] = replace(nodes[0], free_cpus=2)
    aged = run("aged", 4, labels={"kind": "a"}, overtaken=99)
    others = [run("x", seconds=1.0, labels={"kind": "a"}), run("y", labels={"kind": "b"})]
    decision = admit(nodes, held, [aged, *others], now=0.0)
    assert names(decision) == ["y"]
    assert why(decision, "x") == "waits for its turn: what is free is kept for aged"


def test_an_aged_run_that_strangers_hold_up_closes_nothing() -> None:
    nodes = [Node("a", 4, 0, 3, 0)]  # somebody else has a CPU
    aged = run("aged", 4, overtaken=99)
    decision = admit(nodes, [], [aged, run("x")], now=0.0)
    assert names(decision) == ["x"]
    assert "3 are free, other programs hold the others" in why(decision, "aged")


def test_order() -> None:
    nodes = [node("a", 1)]
    requests = [
        run("small", size=1.0), run("large", size=9.0),
        run("urgent", size=0.1, priority=1), run("early", size=9.0, since=-5.0),
    ]  # fmt: skip
    order = []
    while requests:
        (name,) = names(admit(nodes, [], requests, now=0.0))
        order.append(name)
        requests = [item for item in requests if item.id != name]
    assert order == ["urgent", "early", "large", "small"]


def test_elastic_runs_start_with_fewer_after_a_while() -> None:
    nodes, held = busy_node(first=5)
    elastic = run("elastic", 6, min_workers=2)
    assert names(admit(nodes, held, [elastic], now=10.0)) == []
    (grant,) = admit(nodes, held, [elastic], now=60.0).grants
    assert (grant.workers, grant.ends) == (3, 60.0 + 100.0 * 6 / 3)
    assert names(admit(nodes, held, [replace(elastic, min_workers=4)], now=60.0)) == []


def test_gpus_and_labels_are_left_to_those_who_need_them() -> None:
    nodes = [node("gpu", 8, 8), node("cpu", 8), node("special", 8, kind="a")]
    plain = admit(nodes, [], [run("plain")], now=0.0).grants[0]
    special = admit(nodes, [], [run("s", labels={"kind": "a"})], now=0.0).grants[0]
    assert (plain.nodes, special.nodes) == (("cpu",), ("special",))


def test_sentences() -> None:
    nodes = [Node("a", 8, 8, 8, 3, H100), Node("c", 8, 0, 8, 0)]
    running = run("ar-1e+21-seed66", 5, gpus=1.0, owner="you", study="theirs")
    held = [RunAllocation(running, 5, 0.0, ("a",) * 5)]

    def reason(request: RunRequest) -> str:
        decision = admit(nodes, held, [request], now=10.0)
        return why(decision, request.id)

    assert reason(run("x", 8, gpus=1.0, labels=H100)) == (
        "waits for 8 GPUs on nodes with ray.io/accelerator-type=H100: 3 are free, "
        "theirs/ar-1e+21-seed66 holds 5 of them for longer than planned"
    )
    assert reason(run("x", labels={"kind": "z"})) == (
        "waits for a node with kind=z: the cluster has no node with that label"
    )
    assert reason(run("x", 16, gpus=1.0)) == "waits for 16 GPUs: the cluster holds 8 in all"
    assert reason(run("x", cpus=16.0)) == (
        "waits for a node with 16 CPUs for one worker: the largest has 8 CPUs and 8 GPUs"
    )
    limited = admit(nodes, held, [run("x", owner="you", at_once=1)], now=10.0)
    assert "resources.concurrent_runs=1" in why(limited, "x", "you")


@pytest.mark.parametrize(
    ("wanted", "suits"),
    [
        ("x", True),
        ("y", False),
        ("!y", True),
        ("!x", False),
        ("in(x, y)", True),
        ("!in(x,y)", False),
    ],
)
def test_label_selectors_are_rays(wanted: str, suits: bool) -> None:
    assert matches({"kind": wanted}, {"kind": "x"}) == suits
    assert bool(eligible(run("r", labels={"kind": wanted}), [node("a", kind="x")])) == suits
