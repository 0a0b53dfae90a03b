"""A thread for what a driver does periodically while Ray Tune has its main thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class PeriodicThread:
    """Calls `action` every `seconds` in a thread, from now until it is closed.

    An exception of `action` ends the calls; `check` and `close` raise it.
    """

    def __init__(self, action: Callable[[], None], seconds: float) -> None:
        self._action, self._seconds = action, seconds
        self._due, self._closing = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._loop = self._pool.submit(self._run)

    def wake(self) -> None:
        """Make the next call now, or right after the present one."""
        self._due.set()

    def check(self) -> None:
        """Raise the exception that ended the calls, if there was one."""
        if self._loop.done():
            self._loop.result()

    def close(self) -> None:
        """End the calls, wait for the present one, and raise what ended them earlier."""
        self._closing.set()
        self._due.set()
        self._pool.shutdown()
        self._loop.result()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._due.clear()
            self._action()
            self._due.wait(self._seconds)
