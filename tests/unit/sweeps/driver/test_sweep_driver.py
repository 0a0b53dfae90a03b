"""The driver around Ray Tune: whose errors it raises."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from ray.tune import TuneError

from cola.errors import StorageError
from sweeps.driver.sweep_driver import project_error_in


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


def test_an_error_of_the_project_is_found_in_tunes() -> None:
    error = StorageError("trials.jsonl: full")
    assert project_error_in(wrapped(error)) is error


def test_an_error_of_tunes_own_holds_none_of_the_project() -> None:
    assert project_error_in(wrapped(ValueError("of Tune"))) is None
