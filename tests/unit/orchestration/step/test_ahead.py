"""Inputs made ahead: the same values, one step ahead, no thread left behind."""

from __future__ import annotations

import threading
import traceback

import pytest

from orchestration.step.ahead import Ahead


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("cola-ahead")]


def test_the_next_step_alone_is_prepared_while_one_is_in_work() -> None:
    made: list[int] = []
    begun = {step: threading.Event() for step in range(3, 7)}

    def prepare(step: int) -> int:
        made.append(step)
        begun[step].set()
        return step * step

    with Ahead(prepare, end=7) as inputs:
        for step in range(3, 7):
            assert inputs.take(step) == step * step
            if step < 6:
                assert begun[step + 1].wait(5)
            assert made == list(range(3, min(step + 2, 7)))
    assert threads() == []


def test_without_an_end_nothing_is_prepared_before_it_is_asked_for() -> None:
    made: list[int] = []
    with Ahead(made.append, end=0) as inputs:
        inputs.take(5)
        inputs.take(6)
        assert made == [5, 6]


def test_a_failure_is_raised_at_its_own_step_with_the_place_where_it_arose() -> None:
    def broken(step: int) -> int:
        if step == 1:
            raise OSError("the tokens are gone")
        return step

    with Ahead(broken, end=5) as inputs:
        assert inputs.take(0) == 0
        with pytest.raises(OSError, match="the tokens are gone") as caught:
            inputs.take(1)
    assert "broken" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert threads() == []


@pytest.mark.parametrize("error", [RuntimeError("a fault"), KeyboardInterrupt(), SystemExit(3)])
def test_the_thread_ends_however_the_loop_is_left(error: BaseException) -> None:
    wait = threading.Event()

    def left() -> None:
        with Ahead(lambda step: wait.wait(0.05), end=100) as inputs:
            inputs.take(0)
            assert len(threads()) == 1
            raise error

    with pytest.raises(type(error)):
        left()
    assert threads() == []
