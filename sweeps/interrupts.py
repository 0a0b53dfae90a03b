"""Ctrl-C while the command is still being loaded."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cola.errors import INTERRUPTED


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Within, an interrupt ends the process with exit code 130 and prints nothing.

    Nothing is open yet that would have to be closed, and an exception would surface as whatever the
    library that is being imported makes of it.
    """
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as in a shell's background
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
