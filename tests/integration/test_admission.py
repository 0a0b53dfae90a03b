"""The shared queue on a real cluster of three raylets: two owners, labels, a node that comes later,
an owner that dies, a queue that dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until

pytestmark = [pytest.mark.slow(seconds=95), pytest.mark.ray]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a node with a label, of two CPUs each, on loopback."""
    import ray
    from ray.cluster_utils import Cluster

    with (
        tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        # Ray's note of the current cluster is its user's; this one is not to be found by others.
        patch.setenv("RAY_TMPDIR", folder)
        (Path(folder) / "ray").mkdir()
        made = Cluster()
        # Loopback, under a name that Ray does not replace by the machine's address.
        common = {"num_cpus": 2, "node_ip_address": "127.0.0.2", "object_store_memory": 80 << 20}
        made.add_node(include_dashboard=False, **common)
        made.add_node(labels={"kind": "fast"}, **common)
        made.wait_for_nodes()
        made.common = common
        ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


class Driver:
    """One owner, whose runs are placement groups that it removes after a while."""

    def __init__(self, owner: str) -> None:
        from orchestration.cluster.admission_actor import SharedQueue

        self.owner, self.queue = owner, SharedQueue()
        self.waiting: dict[str, Any] = {}
        self.running: dict[str, tuple[Any, Any, float]] = {}  # holding, group, end
        self.began: list[str] = []
        self.why: dict[str, str] = {}

    def ask(self, name: str, workers: int, **values: Any) -> None:
        from orchestration.cluster.packing import RunRequest

        values = {"size": 1.0, "seconds": 1.0, **values}
        self.waiting[name] = RunRequest(
            name, self.owner, name, self.owner, workers, 1.0, 0.0, since=time.time(), **values
        )

    def call(self, lasting: float = 1e9) -> None:
        """Start what is admitted, end what has lasted its time."""
        import ray
        from ray.util import placement_group, remove_placement_group

        from orchestration.cluster.packing import RunAllocation

        now = time.time()
        for name, (_, group, end) in list(self.running.items()):
            if now >= end:
                remove_placement_group(group)
                del self.running[name]
        held = [holding for holding, _, _ in self.running.values()]
        answer = self.queue.update(self.owner, now, list(self.waiting.values()), held=held)
        if answer is None:
            return
        self.why = {name: wait.why for name, wait in answer.waits.items()}
        for name, workers in answer.granted.items():
            request = self.waiting.pop(name)
            labels = [dict(request.labels)] * workers if request.labels else None
            group = placement_group([{"CPU": 1}] * workers, bundle_label_selector=labels)
            ray.get(group.ready(), timeout=20)  # what is admitted finds its place
            self.running[name] = (
                RunAllocation(request, workers, now + lasting),
                group,
                now + lasting,
            )
            self.began.append(name)

    def end(self) -> None:
        from ray.util import remove_placement_group

        for _, group, _ in self.running.values():
            remove_placement_group(group)
        self.running.clear()
        self.queue.leave(self.owner)


@pytest.fixture
def drivers(cluster: Any) -> Iterator[tuple[Driver, Driver]]:
    made = Driver("one"), Driver("two")
    yield made
    for driver in made:
        driver.end()


def test_a_large_run_is_not_starved_by_anothers_stream(drivers: tuple[Driver, Driver]) -> None:
    """One's small runs say that they end at once, last, and never cease to come."""
    small, large = drivers
    sent = 0

    def step() -> None:
        nonlocal sent
        if not small.waiting:  # one after the other, so that they end one after the other
            sent += 1
            small.ask(f"s{sent}", 1, seconds=0.01)
        small.call(lasting=0.7)
        large.call()

    until(lambda: len(small.began) > 3, "small runs", meanwhile=step)
    large.ask("large", 4, size=9.0)
    until(lambda: "large" in large.began, "the large run", seconds=240, meanwhile=step)
    assert small.waiting  # the stream went on


def test_labels_route_and_a_later_node_is_taken(
    cluster: Any, drivers: tuple[Driver, Driver]
) -> None:
    from orchestration.cluster.packing import eligible
    from orchestration.cluster.session import cluster_state

    one, two = drivers
    one.ask("fast", 2, labels={"kind": "fast"})
    two.ask("new", 1, labels={"kind": "new"})

    def step() -> None:
        one.call()
        two.call()

    until(lambda: one.began == ["fast"], "the labelled run", meanwhile=step)
    step()
    fast = eligible(one.running["fast"][0].request, cluster_state().nodes)
    (group,) = cluster_state().groups
    assert set(group.nodes) == {node.id for node in fast}
    assert "the cluster has no node with that label" in two.why["new"]
    added = cluster.add_node(labels={"kind": "new"}, **cluster.common)
    until(lambda: two.began == ["new"], "the run of the new node", meanwhile=step)
    cluster.remove_node(added)


def test_a_dead_owner_and_a_dead_queue(drivers: tuple[Driver, Driver]) -> None:
    """What was given to a silent owner is given on; a new queue knows who runs what."""
    import ray

    from orchestration.cluster.admission_actor import NAME, NAMESPACE
    from orchestration.cluster.packing import RunAllocation

    dead, other = drivers
    dead.ask("held", 4)
    lost = dict(dead.waiting)
    request = lost["held"]
    until(lambda: bool(granted(dead, request)), "a grant")
    other.ask("next", 4)
    other.call()
    assert not other.began
    queue = ray.get_actor(NAME, namespace=NAMESPACE)
    pid = queue_pid()
    os.kill(pid, signal.SIGKILL)
    # The new queue hears from the first owner that it runs something that Ray has not placed yet.
    held = [RunAllocation(request, 4, time.time() + 100)]

    def both_call() -> None:
        dead.queue.update(dead.owner, time.time(), [], held=held)
        other.call()

    until(lambda: queue_pid() not in (None, pid), "a new queue", meanwhile=both_call)
    settling = "hear all drivers"
    until(lambda: settling not in other.why.get("next", settling), "an answer", meanwhile=both_call)
    assert not other.began
    assert "one/held holds 4 of them" in other.why["next"]
    del queue
    dead.queue.leave(dead.owner)
    until(lambda: other.began == ["next"], "the next run", meanwhile=other.call)


def granted(driver: Driver, request: Any) -> dict[str, int]:
    answer = driver.queue.update(driver.owner, time.time(), [request], held=[])
    return answer.granted if answer is not None else {}


def queue_pid() -> int | None:
    """Process of the queue's actor, or None while there is none."""
    from ray._private.state import actors

    from orchestration.cluster.admission_actor import NAME

    found = [
        actor["Pid"] for actor in actors().values()
        if actor["Name"] == NAME and actor["State"] == "ALIVE"
    ]  # fmt: skip
    return found[0] if found else None


HOLDS_ALL_THEN_MAKES_GROUPS = """
import sys, time, ray
from ray.util.placement_group import placement_group
from orchestration.cluster.admission_actor import SharedQueue
from orchestration.cluster.packing import RunAllocation, RunRequest
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
now = time.time()
run = RunRequest("run", "killed", "run", "killed", 4, 1.0, 0.0, size=1.0, seconds=1.0, since=now)
SharedQueue().update("killed", now, [], held=[RunAllocation(run, 4, now + 1e9)])

@ray.remote(num_cpus=0)
class Maker:
    def ready(self):
        return True
    def make(self):
        while True:
            placement_group([{"CPU": 1e-4}])

maker = Maker.remote()
ray.get(maker.ready.remote())
input()
ray.get(maker.make.remote())
"""


def test_a_killed_driver_leaves_nothing_that_is_held(
    cluster: Any, drivers: tuple[Driver, Driver]
) -> None:
    """Its runs' share is free at once. A placement group that is made while its job ends is marked
    by Ray as if the job lived, and keeps what it holds for ever."""
    from ray._private.state import state
    from ray.util import placement_group_table

    from orchestration.cluster.processes import free_dead_groups

    def groups() -> int:
        return sum(group["state"] != "REMOVED" for group in placement_group_table().values())

    assert groups() == 0
    program = [sys.executable, "-c", HOLDS_ALL_THEN_MAKES_GROUPS, cluster.address]
    driver = subprocess.Popen(program, stdin=subprocess.PIPE, text=True)
    other, _ = drivers
    # One worker a node: of a group that dies while it is placed a raylet may keep a bundle, here of
    # 1e-4 CPU, which no group has and nobody can free (Ray 2.60).
    other.ask("next", 2)

    def waits() -> bool:
        return "killed/run holds 4" in other.why.get("next", "")

    until(waits, "the next run to wait", 60, driver, meanwhile=other.call)
    print(file=driver.stdin, flush=True)
    until(lambda: groups() > 5, "the job's groups", 60, process=driver)
    live = [job["JobID"] for job in state.job_table() if not job["IsDead"]]
    assert len(live) == 2
    driver.kill()
    driver.wait()
    until(lambda: len([j for j in state.job_table() if not j["IsDead"]]) == 1, "the job's end", 60)
    until(lambda: not free_dead_groups() and groups() == 0, "no group to be left", 30)
    until(lambda: other.began == ["next"], "its run", 30, meanwhile=other.call)
