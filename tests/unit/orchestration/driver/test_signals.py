"""Signals: the first one requests a stop, a later one leaves where it may, handlers come back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.driver.progress import StudyView
from orchestration.driver.signals import STOP_SIGNALS, handle_signals, run_threads, stop_once
from orchestration.driver.supervisor import run_supervised
from tests.waiting import until


class Driver:
    """Counts requests, and knows whether it is stopping."""

    def __init__(self) -> None:
        self.requests = 0

    def is_stopping(self) -> bool:
        return self.requests > 0

    def request_stop(self) -> None:
        self.requests += 1


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("first", STOP_SIGNALS)
def test_the_first_signal_requests_a_stop(first: int) -> None:
    driver = Driver()
    with handle_signals(stop_once(driver.is_stopping, driver.request_stop)):
        send(first)
    assert driver.requests == 1


@pytest.mark.parametrize(
    ("leave_on", "second", "leaves"),
    [
        ((signal.SIGINT,), signal.SIGINT, True),
        ((signal.SIGINT,), signal.SIGTERM, False),
        (STOP_SIGNALS, signal.SIGTERM, True),
    ],
)
def test_only_a_later_signal_of_a_person_leaves_at_once(
    leave_on: Collection[int], second: int, leaves: bool
) -> None:
    driver, left = Driver(), False
    try:
        with handle_signals(stop_once(driver.is_stopping, driver.request_stop, leave_on)):
            send(signal.SIGTERM, second)
    except KeyboardInterrupt:
        left = True
    assert (left, driver.requests) == (leaves, 1)


def test_former_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with handle_signals(lambda number, frame: None):
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_another_thread_sets_no_handlers() -> None:
    inside: list[object] = []

    def block() -> None:
        with handle_signals(lambda number, frame: None):
            inside.extend(signal.getsignal(number) for number in STOP_SIGNALS)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join(10)
    assert inside == [signal.getsignal(number) for number in STOP_SIGNALS]


def test_a_stop_while_the_driver_is_loaded_does_not_start_it_again(
    tiny_study: dict[str, Any],
) -> None:
    """Its process has no handlers yet, and the signal ends it."""
    before = signal.getsignal(signal.SIGTERM)

    def stop_once_handled() -> None:
        until(lambda: signal.getsignal(signal.SIGTERM) != before, "the supervisor's handler")
        os.kill(os.getpid(), signal.SIGTERM)

    stop = threading.Thread(target=stop_once_handled)
    stop.start()
    with pytest.raises(KeyboardInterrupt):
        run_supervised(StudySpec.parse(tiny_study), "127.0.0.1:1", StudyView())
    stop.join()


def test_a_second_interrupt_does_not_wait_for_runs_and_an_end_does() -> None:
    leaves, ended = threading.Event(), threading.Event()
    runs: list[Future[None]] = []

    def run() -> None:
        leaves.wait(60)
        ended.set()

    def interrupted() -> None:
        with run_threads(1) as pool:
            runs.extend(pool.submit(run) for _ in range(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not ended.is_set()
    assert runs[1].cancelled()  # it has not begun
    leaves.set()
    runs[0].result(60)
    with run_threads(1) as pool:
        last = pool.submit(run)
    assert last.done()
