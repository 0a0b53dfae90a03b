"""Which tests take long on a processor: a plugin of pytest that writes `tests/long_tests.txt`.

    python -m pytest -p tests.cpu_times -q -m "not slow or long" tests

One process (no `-n`). A test's seconds are CPU seconds of its process and of those that it waited
for; a parametrised one's are added up. `make test-quick` leaves out what the file lists.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from tests.paths import LONG_TESTS

LONG_SECONDS = 0.6  # chosen: the others together take two cores about a minute
_seconds: Counter[str] = Counter()


def function_of(item: pytest.Item) -> str:
    """File and name of a test, whatever its parameters."""
    return item.nodeid.partition("[")[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Measure the test with its fixtures."""
    before = sum(os.times()[:4])
    result = yield
    _seconds[function_of(item)] += sum(os.times()[:4]) - before
    return result


def pytest_sessionfinish() -> None:
    """Write the file."""
    long = sorted(name for name, seconds in _seconds.items() if seconds >= LONG_SECONDS)
    LONG_TESTS.write_text("".join(f"{name}\n" for name in long))
