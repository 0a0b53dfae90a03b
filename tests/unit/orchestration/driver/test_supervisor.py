"""A driver that is lost is started again, within limits; what it raises is raised here."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from cola.errors import ClusterError, RunError
from cola.spec.resources import ResourcesSpec
from orchestration.driver.supervisor import supervised
from orchestration.state.event_log import EventLog, read_events

pytestmark = pytest.mark.slow(seconds=8)  # each driver is a process that loads its modules


def lost_at_first(folder: Path, losses: int) -> str:
    """A driver that is killed at its first `losses` starts."""
    starts = len(list(folder.glob("start-*")))
    (folder / f"start-{starts}").touch()
    if starts < losses:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"start {starts + 1}"


def refuses() -> str:
    """A driver that raises what the product raises."""
    raise RunError("the run is gone")


def test_a_lost_driver_is_started_again(tmp_path: Path) -> None:
    lines: list[str] = []
    resources = ResourcesSpec(max_failures=1)
    log = EventLog(tmp_path)
    work = partial(lost_at_first, tmp_path, 1)
    assert supervised(work, "h:1", resources, events=log, notify=lines.append) == "start 2"
    (line,) = lines
    assert line.endswith("restarting it (1 of 1)")
    assert [event["event"] for event in read_events(tmp_path)] == ["driver lost"]


def test_one_that_is_lost_too_often_is_given_up(tmp_path: Path) -> None:
    resources = ResourcesSpec(max_failures=0)
    work = partial(lost_at_first, tmp_path, 9)
    with pytest.raises(ClusterError, match=r"ended with -9.*\(resources.max_failures=0\)"):
        supervised(work, "h:1", resources, events=EventLog(tmp_path), notify=print)
    assert len(list(tmp_path.glob("start-*"))) == 1
    with pytest.raises(RunError, match="the run is gone"):
        supervised(refuses, "h:1", resources, events=EventLog(tmp_path), notify=print)
