"""Killing hung worker processes on any node; releasing placement groups of dead actors."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestration.compat.ray import orphaned_placement_groups

log = logging.getLogger(__name__)

KILL_SECONDS = 60.0  # chosen value: a task on a loaded node starts within seconds


def end_workers(processes: Iterable[tuple[str, int]]) -> int:
    """SIGKILL Ray workers, each given by its node and process id; returns how many were alive.

    A worker that hangs, or is stopped, does not react to anything gentler. Nodes that do not answer
    are left to Ray, which declares them dead by itself.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    kills = []
    for node_id, pid in processes:
        on_node = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_node)(kill_ray_worker)
        kills.append(task.remote(pid))
    done, unanswered = ray.wait(kills, num_returns=len(kills), timeout=KILL_SECONDS)
    killed = sum(_was_alive(kill) for kill in done)
    log.info("killed %d of %d hung workers; no answer for %d", killed, len(kills), len(unanswered))
    return killed


def _was_alive(kill: Any) -> bool:
    import ray
    from ray.exceptions import RayError

    try:
        return bool(ray.get(kill))
    except RayError:  # the node is gone
        return False


def kill_ray_worker(pid: int) -> bool:
    """SIGKILL a process of this machine if it is a Ray worker (process ids are reused); whether it
    was."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    if not title.startswith(b"ray::"):
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def free_dead_groups() -> int:
    """Remove this job's placement groups that a dead actor made, and those that ended jobs have
    left; returns how many there were.

    Ray keeps the first to the job's end, and the others for ever. Ray Train's own actor for it,
    which asks the dashboard, is not started (`orchestration.compat.ray.trainer_class`).
    """
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    orphans = orphaned_placement_groups(ray.get_runtime_context().get_job_id())
    for group in orphans:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))
    if orphans:
        log.info("removed %d placement groups of dead actors or jobs", len(orphans))
    return len(orphans)
