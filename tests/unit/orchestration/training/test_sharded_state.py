"""Fragments: whatever the sharding they were written in, any range of a tensor is read back."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.training.distributed import WorkerRank
from orchestration.training.sharded_state import (
    BUFFER,
    WEIGHT,
    Fragment,
    FragmentReader,
    fragments_file,
    write_fragments,
)

NAMES = ("model.a@b.weight", "model.c")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 40), min_size=0, max_size=4),
    start=st.integers(0, 39),
    stop=st.integers(0, 40),
)
def test_any_range_is_read_from_any_parts(
    size: int, cuts: list[int], start: int, stop: int, tmp_path: Path
) -> None:
    whole = {name: torch.randn(size) for name in NAMES}
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    for rank, (begin, end) in enumerate(itertools.pairwise(edges)):
        parts = [Fragment(WEIGHT, name, begin, whole[name][begin:end]) for name in NAMES]
        worker = WorkerRank(rank, len(edges) - 1)
        write_fragments(tmp_path, parts if end > begin else [], worker=worker, steps=7)
    start, stop = min(start, stop, size), min(max(start, stop), size)
    with FragmentReader(tmp_path) as reader:
        assert reader.steps == 7
        assert reader.has(WEIGHT, "model.c")
        assert not reader.has(BUFFER, "model.c")
        for name in NAMES:
            found = reader.read(WEIGHT, name, start, numel=stop - start)
            assert torch.equal(found, whole[name][start:stop])


def test_types_and_scalars_are_kept(tmp_path: Path) -> None:
    ids, scale = torch.arange(5), torch.tensor(2.5).reshape(-1)
    fragments = [Fragment(BUFFER, "ids", 0, ids), Fragment(BUFFER, "scale", 0, scale)]
    write_fragments(tmp_path, fragments, worker=WorkerRank(), steps=1)
    with FragmentReader(tmp_path) as reader:
        assert torch.equal(reader.read(BUFFER, "ids", 0, numel=5), ids)
        assert torch.equal(reader.read(BUFFER, "scale", 0, numel=1), scale)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for rank, start in ((0, 0), (1, 6)):
        fragment = Fragment(WEIGHT, "w", start, torch.zeros(4))
        write_fragments(tmp_path, [fragment], worker=WorkerRank(rank, 2), steps=1)
    with FragmentReader(tmp_path) as reader:
        assert len(reader.read(WEIGHT, "w", 6, numel=4)) == 4
        with pytest.raises(ValueError, match="weight of w lacks element 4 of 10"):
            reader.read(WEIGHT, "w", 0, numel=10)
        with pytest.raises(ValueError, match="weight of other lacks element 0 of 1"):
            reader.read(WEIGHT, "other", 0, numel=1)
    fragments_file(tmp_path, 1).unlink()
    with pytest.raises(FileNotFoundError):
        FragmentReader(tmp_path)
