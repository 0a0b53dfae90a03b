"""Something that a driver does again and again while Ray Tune has its thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class PeriodicThread:
    """Calls `do` in a thread, every so many seconds, until it is closed.

    What `do` raises ends the calls, and is raised to whoever checks or closes.
    """

    def __init__(self, do: Callable[[], None], seconds: float) -> None:
        self._do, self._seconds = do, seconds
        self._soon, self._closing = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._loop = self._pool.submit(self._run)

    def soon(self) -> None:
        """Do not wait for the next call."""
        self._soon.set()

    def check(self) -> None:
        """Raise what a call has raised."""
        if self._loop.done():
            self._loop.result()

    def close(self) -> None:
        """No more calls; waits for one that is under way."""
        self._closing.set()
        self._soon.set()
        self._pool.shutdown()
        self._loop.result()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._soon.clear()
            self._do()
            self._soon.wait(self._seconds)
