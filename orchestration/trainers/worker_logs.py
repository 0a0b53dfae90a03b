"""Why workers failed, in one line, and where Ray keeps what they wrote to stderr."""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cola.errors import first_of, one_line
from cola.logs import PACKAGES
from orchestration.state.heartbeat import Beat, read_beats

# That a message names; chosen: workers of one run mostly fail of the same cause.
MOST_FILES = MOST_CAUSES = 2
MOST_CHARACTERS = 1000  # of a cause's own text; chosen: errors of libraries are shorter
# Characters of a text without a traceback beyond which its sentences are chosen from: two lines.
LONG_TEXT = 160
TRACEBACK = "Traceback (most recent call last)"
FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
# Parts of a path from which on a frame's file is named.
ROOTS = (*PACKAGES, "site-packages")


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


def cause_of(failures: dict[int, Exception]) -> str:
    """Which ranks failed of what, with ranks of the same cause together; two causes at most."""
    ranks_of: dict[str, list[int]] = {}
    for rank, failure in sorted(failures.items()):
        ranks_of.setdefault(raised_in(failure), []).append(rank)
    causes = [f"rank {', '.join(map(str, ranks))}: {cause}" for cause, ranks in ranks_of.items()]
    return first_of(causes, MOST_CAUSES, separator="; ")


def raised_in(error: BaseException) -> str:
    """What was raised, with its class, its whole message and its place, from an error's text.

    Where the text holds a traceback, the last one in it counts; the place is the last of its frames
    that is the product's, or else the last one.
    """
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    begins = [number for number, line in enumerate(lines) if line.lstrip().startswith(TRACEBACK)]
    if not begins:
        return _without_traceback(error, lines)
    lines = lines[begins[-1] + 1 :]
    frames = [number for number, line in enumerate(lines) if FRAME.match(line)]
    after = lines[frames[-1] + 1 :] if frames else lines
    # Below a frame are its source and markers, indented; the exception's line is not.
    margin = min((_indent(line) for line in after), default=0)
    first = next((n for n, line in enumerate(after) if _indent(line) == margin), 0)
    message = one_line(" ".join(after[first:]) or type(error).__name__, MOST_CHARACTERS)
    place = _place([lines[number] for number in frames])
    return f"{message} (at {place})" if place else message


def _without_traceback(error: BaseException, lines: list[str]) -> str:
    """The class, the text and, where the error still has it, the place.

    Of a long text, as Ray's own errors have it, the first sentences of its first and last lines.
    """
    text = one_line(" ".join(lines) or error, MOST_CHARACTERS)
    if len(text) > LONG_TEXT and lines:
        ends = (line.partition(". ")[0].rstrip(".") for line in (lines[0], lines[-1]))
        text = ": ".join(dict.fromkeys(map(one_line, ends)))
    name = type(error).__name__
    named = text if text.startswith(name) else f"{name}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    place = _place([f'File "{frame.filename}", line {frame.lineno}' for frame in frames])
    return f"{named} (at {place})" if place else named


def _place(frames: list[str]) -> str | None:
    places = []
    for frame in frames:
        match = FRAME.match(frame)
        if match:
            places.append((match["file"].split("/"), match["line"]))
    ours = [
        item for item in places if set(PACKAGES) & set(item[0]) and "site-packages" not in item[0]
    ]
    if not places:
        return None
    parts, line = (ours or places)[-1]
    starts = [n for n, part in enumerate(parts) if part in ROOTS]
    return f"{'/'.join(parts[starts[-1] :] if starts else parts[-2:])}:{line}"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
