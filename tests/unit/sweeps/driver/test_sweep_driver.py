"""The driver around Ray Tune: whose errors it raises."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from ray.tune import TuneError

from cola.errors import StorageError
from sweeps.driver.sweep_driver import raise_cause


def wrapped(error: Exception) -> TuneError:
    """As Ray Tune raises what its search algorithm has raised."""

    def fail() -> None:
        raise error

    def call(action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            raise TuneError(traceback.format_exc())  # noqa: B904

    with pytest.raises(TuneError) as caught:
        call(fail)
    return caught.value


def test_an_error_of_the_project_is_raised_as_it_was() -> None:
    error = StorageError("trials.jsonl: full")
    with pytest.raises(StorageError) as raised:
        raise_cause(wrapped(error))
    assert raised.value is error


def test_an_error_of_tunes_own_is_left_as_it_is() -> None:
    raise_cause(wrapped(ValueError("of Tune")))
