"""The queue of a cluster: repeated grants, dead owners, placement groups, a queue made anew."""

from __future__ import annotations

from orchestration.cluster.admission_queue import OWNER_SECONDS, AdmissionQueue
from orchestration.cluster.packing import ClusterState, Node, PlacedGroup, RunAllocation, RunRequest


def run(name: str, workers: int = 1) -> RunRequest:
    return RunRequest(name, "me", name, "mine", workers, 1.0, 0.0, 1.0, 100.0, 0.0)


class World:
    """A queue over a cluster and a clock that the test moves."""

    def __init__(self, cpus: float = 4) -> None:
        self.now, self.cpus = 1000.0, cpus
        self.groups: tuple[PlacedGroup, ...] = ()
        self.ended_jobs: frozenset[str] = frozenset()
        self.queue = AdmissionQueue(self.look, clock=lambda: self.now)

    def look(self) -> ClusterState:
        used = sum(cpus for group in self.groups for cpus, _ in group.bundles)
        nodes = (Node("a", self.cpus, 0, self.cpus - used, 0),)
        return ClusterState(nodes, self.groups, self.ended_jobs)

    def granted(
        self, owner: str, requests: list[RunRequest], held: list[RunAllocation] | None = None
    ) -> dict[str, int]:
        return self.queue.update(owner, 0.0, requests, held=held or []).granted


def test_a_dead_owner_loses_what_it_was_given() -> None:
    world = World()
    assert world.granted("one", [run("r", 4)]) == {"r": 4}
    assert world.granted("two", [run("s", 4)]) == {}
    assert world.granted("one", [run("r", 4)]) == {"r": 4}  # repeated until it is held
    world.now += OWNER_SECONDS + 1
    assert world.granted("two", [run("s", 4)]) == {"s": 4}


def test_an_owner_ends_with_its_job() -> None:
    """Nobody waits for OWNER_SECONDS for what a killed driver held."""
    world = World()
    held = [RunAllocation(run("r", 4), 4, 50.0)]
    world.queue.update("killed", 0.0, [], held=held, job="01")
    world.ended_jobs = frozenset({"00"})
    assert world.granted("two", [run("s", 4)]) == {}
    world.ended_jobs |= {"01"}
    assert world.granted("two", [run("s", 4)]) == {"s": 4}


def test_placed_runs_are_counted_once_and_outlive_the_queue() -> None:
    world = World()
    first, second = run("r", 2), run("s", 2)
    assert world.granted("one", [first]) == {"r": 2}
    held = [RunAllocation(first, 2, 50.0)]
    assert world.granted("one", [second], held) == {"s": 2}
    held.append(RunAllocation(second, 2, 50.0))
    assert world.granted("one", [run("t")], held) == {}
    # Ray has placed one; the other one is still to come.
    world.groups = (PlacedGroup("g", ((1, 0),) * 2, ("a",) * 2),)
    assert world.granted("one", [run("t")], held) == {}
    world.queue = AdmissionQueue(world.look, clock=lambda: world.now)
    assert world.granted("one", [run("t")], held) == {}
    # Its workers start again: their share is kept although Ray says that it is free.
    world.groups = ()
    assert world.granted("one", [run("t")], held) == {}
    assert world.granted("one", [run("t")], held[:1]) == {"t": 1}


def test_a_group_that_was_there_before_is_nobodys_run() -> None:
    world = World()
    world.groups = (PlacedGroup("stranger", ((1, 0),) * 2, ("a",) * 2),)
    assert world.granted("one", [run("r", 2)]) == {"r": 2}
    assert world.granted("one", [run("t", 2)], [RunAllocation(run("r", 2), 2, 50.0)]) == {}


def test_a_group_that_one_run_leaves_may_be_the_next_ones() -> None:
    """As that of a process that trains one run after the other."""
    world = World()
    first, second = (RunAllocation(run(name), 1, 50.0) for name in ("r", "s"))
    assert world.granted("one", [first.request]) == {"r": 1}
    world.groups = (PlacedGroup("g", ((1, 0),), ("a",)),)
    assert world.granted("one", [second.request], [first]) == {"s": 1}
    assert world.granted("one", [run("t", 3)], [second]) == {"t": 3}


def test_a_new_queue_hears_all_before_it_grants() -> None:
    world = World()
    world.queue = AdmissionQueue(world.look, clock=lambda: world.now, settle_seconds=3.0)
    assert world.granted("one", [run("r")]) == {}
    world.now += 3
    assert world.granted("one", [run("r")]) == {"r": 1}
