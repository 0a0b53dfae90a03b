"""Ending a worker process that hangs, on whatever node of the cluster it is."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def end_worker(node_id: str, pid: int, timeout_seconds: float = 60.0) -> bool:
    """SIGKILL the Ray worker `pid` on a node; False where it is gone or the node does not answer.

    A worker that hangs, or is stopped, does not react to anything gentler.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(kill_ray_worker)
    try:
        return bool(ray.get(task.remote(pid), timeout=timeout_seconds))
    except RayError:
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
