"""Where Ray keeps what a run's workers write to stderr, the project's logs among it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from orchestration.state.heartbeat import Beat, read_beats

MOST_FILES = 2  # that a message names: workers of one run mostly fail of the same cause


def worker_logs(run_folder: Path, ranks: Collection[int] | None = None) -> str:
    """Files of the last attempt's workers as `HOST:FOLDER/worker-*-PID.err`, at most two.

    `ranks` selects workers. Where none of them has sent a heartbeat, the log folder of every node;
    without a Ray session, what to look for.
    """
    import ray

    if not ray.is_initialized():
        return "worker-*.err in the log folder of Ray's session"
    beats = [beat for beat in read_beats(run_folder) if ranks is None or beat.rank in ranks]
    return files_of(beats, ray.nodes())


def files_of(beats: Collection[Beat], nodes: Collection[dict[str, Any]]) -> str:
    """The workers' files on Ray's `nodes` (as `ray.nodes()` describes them)."""
    folders = {node["NodeID"]: log_folder(node) for node in nodes}
    known = [beat for beat in beats if beat.node_id in folders]
    files = [f"{b.host}:{folders[b.node_id]}/worker-*-{b.pid}.err" for b in known[:MOST_FILES]]
    hosts = [f"{node['NodeManagerHostname']}:{log_folder(node)}" for node in nodes if node["Alive"]]
    return ", ".join(files or [f"worker-*.err in {folder}" for folder in hosts[:MOST_FILES]])


def log_folder(node: dict[str, Any]) -> Path:
    """A node's log folder: beside the folder of its sockets."""
    return Path(node["RayletSocketName"]).parents[1] / "logs"
