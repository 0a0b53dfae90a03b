"""Waits for what other threads and processes do."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

EVERY_SECONDS = 0.1


def until(
    condition: Callable[[], bool],
    what: str = "it",
    seconds: float = 180,
    process: subprocess.Popen[str] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
    every: float = EVERY_SECONDS,
) -> None:
    """Look every so many seconds until `condition` holds, calling `meanwhile` before each further
    look.

    Raises:
        AssertionError: after `seconds`, or when `process` ends before.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        meanwhile()
        signal.sigtimedwait([], every)
