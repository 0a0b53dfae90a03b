"""Ending a worker process that hangs, on whatever node it is; taking back what the dead hold."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestration.compat.ray import orphaned_placement_groups

log = logging.getLogger(__name__)


def end_workers(processes: Iterable[tuple[str, int]], timeout_seconds: float = 60.0) -> int:
    """SIGKILL Ray workers, each given by its node and process id; how many were there to end.

    A worker that hangs, or is stopped, does not react to anything gentler. Nodes that do not answer
    are left to Ray, which takes them for dead by itself.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = []
    for node_id, pid in processes:
        there = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(kill_ray_worker)
        asked.append(task.remote(pid))
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=timeout_seconds)
    return sum(_answer(reference) for reference in answered)


def _answer(reference: Any) -> bool:
    import ray
    from ray.exceptions import RayError

    try:
        return bool(ray.get(reference))
    except RayError:  # the node is gone
        return False


def kill_ray_worker(pid: int) -> bool:
    """SIGKILL a process of this machine, if it still is a Ray worker (ids are used again)."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    if not title.startswith(b"ray::"):
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def free_dead_groups() -> int:
    """Remove this job's placement groups that a dead actor made; returns how many there were.

    Ray keeps them to the job's end. The actor by which Ray Train removes them asks the dashboard,
    and does not find it on a machine with more than one Ray.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    orphans = orphaned_placement_groups(ray.get_runtime_context().get_job_id())
    for group in orphans:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))
    if orphans:
        log.info("removed %d placement groups of dead actors", len(orphans))
    return len(orphans)
