"""Lines with the time since the start and, on a terminal, one table below them that is kept
current; what a stop waits for."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cola.errors import first_of
from cola.terminal import say

log = logging.getLogger(__name__)

PLAIN_STOP_SECONDS = 60.0  # between two lines on a stop without a terminal; a chosen value
OTHER_LINES = 10  # of a terminal, that are not rows of the live table; a chosen value
REFRESHES = 2.0  # of the table, a second; a chosen value


class LiveScreen:
    """What a driver prints while it works."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._live: Live | None = None
        self._table: Callable[[], Table] = Table
        self._began = time.monotonic()
        self._waits_for: Callable[[], Sequence[str]] = list
        self._stopping_since: float | None = None
        self._stop_reported_at = 0.0

    @property
    def is_live(self) -> bool:
        """Whether a table is shown now."""
        return self._live is not None

    @property
    def room(self) -> int:
        """Rows that a live table may have on this terminal."""
        return max(1, self.console.height - OTHER_LINES)

    def note(self, text: str) -> None:
        """Print a line with the minutes and seconds since the start."""
        whole, rest = divmod(int(time.monotonic() - self._began), 60)
        line = f"[{whole:02d}:{rest:02d}] {text}"
        try:
            say(self.console, line)
        except OSError as error:  # lines may go to a file, on a disk that is full
            log.debug("not printed (%s): %s", error, line)

    @contextmanager
    def live(self, table: Callable[[], Table]) -> Iterator[None]:
        """Show what `table` gives inside the block, if the console is a terminal."""
        if not self.console.is_terminal:
            yield
            return
        self._table = table
        # Logs that go to a file stay out of the table's console.
        logs_share_terminal = sys.stderr.isatty()
        try:
            with Live(
                table(),
                console=self.console,
                refresh_per_second=REFRESHES,
                redirect_stderr=logs_share_terminal,
            ) as self._live:
                try:
                    yield
                finally:
                    self.update()  # it stays on the screen
        finally:
            self._live = None

    def update(self) -> None:
        """Draw the table anew; without one, a line now and then on what a stop waits for."""
        if self._live is not None:
            self._live.update(self._table())
        elif self._stopping_since is not None:
            is_due = time.monotonic() - self._stop_reported_at >= PLAIN_STOP_SECONDS
            if is_due and self._waits_for():
                self._stop_reported_at = time.monotonic()
                self.note(f"stopping for {clock_since(self._stopping_since)}{self._waiting()}")

    def stop(self, text: str, waits_for: Callable[[], Sequence[str]]) -> None:
        """Print that the driver stops, and from now on what it waits for."""
        self._waits_for = waits_for
        self._stopping_since = self._stop_reported_at = time.monotonic()
        by_hand = self.console.is_terminal and waits_for()
        again = "; Ctrl-C again leaves without them" if by_hand else ""
        self.note(f"{text}{self._waiting()}{again}")

    def title(self, counts: str, left: str | None) -> str:
        """The table's title: counts, the time since the start, and the time `left`; of a stop,
        what it waits for."""
        title = f"{counts}, {clock_since(self._began)}"
        if self._stopping_since is not None:
            return f"{title} | stopping for {clock_since(self._stopping_since)}{self._waiting()}"
        return title if left is None else f"{title}, ETA {left}"

    def _waiting(self) -> str:
        """A clause that names what a stop waits for; empty where that is nothing."""
        names = self._waits_for()
        return f"; waits for {first_of(names)}" if names else ""


def clock_since(since: float) -> str:
    """Time since a monotonic moment."""
    return minutes(time.monotonic() - since)


def minutes(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    whole, rest = divmod(int(seconds), 60)
    return f"{whole} min {rest:02d} s" if whole else f"{rest} s"
