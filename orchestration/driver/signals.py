"""Handling of SIGINT and SIGTERM while a block runs, and of the threads that it waits for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

Handler = Callable[[int, FrameType | None], None]
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handle_signals(handler: Handler) -> Iterator[None]:
    """Send both signals to `handler` inside the block, and restore the former handlers after it.

    Python sets handlers in its main thread only: in another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in former.items():
            signal.signal(number, old)


def stop_once(
    is_stopping: Callable[[], bool],
    request_stop: Callable[[], None],
    leave_on: Collection[int] = (signal.SIGINT,),
) -> Handler:
    """A handler that requests a stop at the first signal.

    While stopping, a signal in `leave_on` raises KeyboardInterrupt and others are ignored: SIGTERM
    comes from programs, which may send it several times.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        if not is_stopping():
            request_stop()
        elif number in leave_on:
            raise KeyboardInterrupt

    return handler


def forward_to(process: BaseProcess, asked: threading.Event | None = None) -> Handler:
    """A handler that passes each signal on to a child process; `asked` remembers that one came."""

    def handler(number: int, frame: FrameType | None) -> None:
        if asked is not None:
            asked.set()
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, number)

    return handler


@contextmanager
def run_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for runs. The block's end waits for them, unless it is a KeyboardInterrupt:
    whoever asks a second time to stop is not kept by runs that do not leave."""
    pool, waits = ThreadPoolExecutor(count), True
    try:
        yield pool
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        pool.shutdown(waits, cancel_futures=not waits)
