"""Shards on disk give back the rows that went in."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cola.data.packed import PackedTokens, PackedWriter, byte_file, token_file


def write(
    folder: Path, ids: np.ndarray, sizes: list[int], length: int, dtype: str, shard_tokens: int
) -> PackedWriter:
    lengths = ids % 7
    with PackedWriter(folder, "train", length, dtype, shard_tokens) as writer:
        for part, size in zip(
            np.split(ids, np.cumsum(sizes)), np.split(lengths, np.cumsum(sizes)), strict=True
        ):
            writer.append(part, size)
        writer.flush()
    return writer


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 90), max_size=10),
    rest=st.integers(0, 200),
    length=st.integers(1, 20),
    shard_tokens=st.integers(1, 200),
    dtype=st.sampled_from(["uint16", "uint32"]),
    data=st.data(),
)
def test_rows_and_bytes_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    rest: int,
    length: int,
    shard_tokens: int,
    dtype: str,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    total = sum(sizes) + rest
    ids = np.random.default_rng(total).integers(0, np.iinfo(dtype).max + 1, total)
    writer = write(folder, ids, sizes, length, dtype, shard_tokens)
    rows = total // length
    expected = ids[: rows * length].reshape(rows, length)
    packed = PackedTokens(folder, "train", length, dtype, writer.shards)
    assert (len(packed), writer.sequences, writer.dropped_tokens) == (rows, rows, total % length)
    assert max(writer.shards, default=0) <= max(1, shard_tokens // length)
    wanted = np.asarray(
        data.draw(st.lists(st.integers(0, rows - 1), max_size=30) if rows else st.just([])),
        dtype=np.int64,
    )
    found = packed.rows(wanted)
    assert found.dtype == np.int64
    assert found.shape == (len(wanted), length)
    assert np.array_equal(found, expected[wanted])
    assert np.array_equal(packed.bytes_of(wanted), (expected % 7).sum(axis=1)[wanted])
    assert writer.bytes == int((expected % 7).sum())


@pytest.fixture
def packed(tmp_path: Path) -> PackedTokens:
    writer = write(tmp_path, np.arange(100), [30, 30], 8, "uint16", 32)
    assert writer.shards == [4, 4, 4]
    return PackedTokens(tmp_path, "train", 8, "uint16", writer.shards)


def test_items(packed: PackedTokens) -> None:
    assert packed[3].tolist() == list(range(24, 32))
    assert packed[-1].tolist() == list(range(88, 96))
    assert np.array_equal(np.stack(list(packed)), np.arange(96).reshape(12, 8))


@pytest.mark.parametrize("index", [12, -13])
def test_ids_outside_are_refused(packed: PackedTokens, index: int) -> None:
    with pytest.raises(IndexError, match="of 12"):
        packed[index]
    with pytest.raises(IndexError, match="of 12"):
        packed.rows(np.asarray([0, index]))
    with pytest.raises(IndexError, match="of 12"):
        packed.bytes_of(np.asarray([index]))


def test_a_pickle_carries_no_tokens(tmp_path: Path) -> None:
    writer = write(tmp_path, np.arange(50_000), [], 10, "uint16", 10_000)
    pickled = pickle.dumps(PackedTokens(tmp_path, "train", 10, "uint16", writer.shards))
    assert len(pickled) < 1000
    assert pickle.loads(pickled)[4999].tolist() == list(range(49_990, 50_000))


def test_truncated_and_missing_files_are_noticed(packed: PackedTokens) -> None:
    arguments = (packed.folder, "train", 8, "uint16", packed.shards)
    path = token_file(packed.folder, "train", 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="64 bytes expected, found 63"):
        PackedTokens(*arguments)
    byte_file(packed.folder, "train", 0).unlink()
    with pytest.raises(ValueError, match="found None"):
        PackedTokens(*arguments)
