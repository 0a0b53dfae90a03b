"""Stores of made-up studies."""

from __future__ import annotations

import pytest

from cola.records import Tag
from tests.unit.analysis.store import KINDS, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    for family in KINDS:
        for rung in range(4):
            store.run("full", family, rung)
    store.run("full", "ar", 0, **{Tag.STATUS: "failed"})  # the first, unlucky try of a finished run
    store.run("full", "ar", 1, **{Tag.RUN_KEY: "other", Tag.STATUS: "diverged"})
    return store
