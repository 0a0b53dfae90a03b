"""The order of the data is a pure function of (seed, step), and its fingerprint proves it."""

from __future__ import annotations

import hashlib
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cola.data.order import (
    OrderFingerprint,
    micro_batches,
    micro_slices,
    permute,
    sequence_ids,
    worker_slice,
)

seeds = st.integers(0, 2**32 - 1)


@given(n=st.integers(1, 3000), seed=seeds, epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    image = permute(np.arange(n), n, seed, epoch=epoch)
    assert np.array_equal(np.sort(image), np.arange(n))


@settings(max_examples=50)
@given(n=st.integers(1, 200), batch=st.integers(1, 500), seed=seeds)
def test_every_epoch_has_each_sequence_once_whatever_the_batch(
    n: int, batch: int, seed: int
) -> None:
    steps = -(-3 * n // batch)
    order = np.concatenate([sequence_ids(seed, s, batch, num_sequences=n) for s in range(steps)])[
        : 3 * n
    ]
    for epoch in order.reshape(3, n):
        assert np.array_equal(np.sort(epoch), np.arange(n))
    one_by_one = np.concatenate(
        [sequence_ids(seed, p, 1, num_sequences=n) for p in range(min(3 * n, 40))]
    )
    assert np.array_equal(one_by_one, order[: len(one_by_one)])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    n = 1000
    orders = [permute(np.arange(n), n, seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    for i, one in enumerate(orders):
        for other in orders[i + 1 :]:
            # Independent permutations agree on one place on average.
            assert (one == other).sum() < 10


def test_first_places_are_uniform_over_seeds() -> None:
    n, draws = 10, 4000
    counts = np.zeros((3, n))
    for seed in range(draws):
        counts[np.arange(3), permute(np.arange(3), n, seed, epoch=0)] += 1
    chi_square = ((counts - draws / n) ** 2 / (draws / n)).sum(axis=1)
    # 9 degrees of freedom: above 33.7 with probability 1e-4.
    assert (chi_square < 33.7).all()


def test_neighbours_are_scattered() -> None:
    n = 100_000
    image = permute(np.arange(n), n, 7, epoch=0).astype(float)
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(image, np.arange(n))[0, 1]) < 0.02


def test_order_is_pinned() -> None:
    """The order is part of what a seed means: a change of it would change finished studies."""
    pinned = [10765, 1979, 3714, 3828, 12841, 11831, 6004, 11807]
    assert sequence_ids(6198, 3, 8, num_sequences=13323).tolist() == pinned


def test_a_late_step_of_a_huge_corpus_costs_nothing() -> None:
    started = time.perf_counter()
    ids = sequence_ids(1, 10**9, 4096, num_sequences=10**12)
    assert time.perf_counter() - started < 1.0
    assert ids.dtype == np.int64
    assert len(np.unique(ids)) == 4096
    assert 0 <= ids.min() < 10**11 < 9 * 10**11 < ids.max() < 10**12


@given(workers=st.integers(1, 9), extra=st.integers(0, 30), step=st.integers(0, 1000))
def test_slices_of_all_workers_are_the_batch(workers: int, extra: int, step: int) -> None:
    ids = sequence_ids(3, step, workers + extra, num_sequences=777)
    slices = [worker_slice(ids, rank, workers) for rank in range(workers)]
    sizes = {len(part) for part in slices}
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert np.array_equal(np.concatenate(slices), ids)


@given(
    workers=st.integers(1, 9),
    extra=st.integers(0, 30),
    micro=st.one_of(st.none(), st.integers(1, 12)),
)
def test_micro_batches_of_all_workers_are_as_many_and_hold_the_batch(
    workers: int, extra: int, micro: int | None
) -> None:
    ids = np.arange(workers + extra)
    count = micro_batches(len(ids), workers, micro)
    assert count == 1 or micro is not None
    parts = [
        part
        for rank in range(workers)
        for part in micro_slices(worker_slice(ids, rank, workers), count)
    ]
    assert len(parts) == workers * count
    assert max(len(part) for part in parts) <= (micro or len(ids))
    assert np.array_equal(np.concatenate(parts), ids)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^step=-1 must be at least 0$"):
        sequence_ids(0, -1, 4, num_sequences=10)
    with pytest.raises(ValueError, match=r"^num_sequences=0 must be at least 1$"):
        sequence_ids(0, 0, 4, num_sequences=0)
    with pytest.raises(ValueError, match=r"^batch_sequences=0 must be at least 1$"):
        sequence_ids(0, 0, 0, num_sequences=4)
    with pytest.raises(ValueError, match="cannot be divided"):
        worker_slice(np.arange(2), 0, 3)
    with pytest.raises(ValueError, match="rank 2"):
        worker_slice(np.arange(4), 2, 2)


def reference_digests(ids: list[int]) -> dict[int, str]:
    """The definition, one id after the other: chained over blocks of 256 ids."""
    chain, block, digests = b"", b"", {}
    for count, value in enumerate(ids, start=1):
        block += value.to_bytes(8, "little")
        digest = hashlib.sha256(chain + block)
        if count & (count - 1) == 0:
            digests[count] = digest.hexdigest()
        if count % 256 == 0:
            chain, block = digest.digest(), b""
    return digests


@given(sizes=st.lists(st.integers(0, 700), max_size=8), restart=st.integers(0, 7))
def test_fingerprint_ignores_batches_and_restarts(sizes: list[int], restart: int) -> None:
    ids = sequence_ids(5, 0, max(1, sum(sizes)), num_sequences=10**6)[: sum(sizes)]
    fingerprint, start = OrderFingerprint(), 0
    for number, size in enumerate(sizes):
        if number == restart:
            state = json.loads(json.dumps(fingerprint.state_dict()))
            fingerprint = OrderFingerprint()
            fingerprint.load_state_dict(state)
        fingerprint.update(ids[start : start + size])
        start += size
    assert fingerprint.count == len(ids)
    assert fingerprint.digests == reference_digests(ids.tolist())


@settings(max_examples=30)
@given(step=st.integers(0, 100), batch=st.integers(1, 40), n=st.integers(20, 500))
def test_replay_equals_recording(step: int, batch: int, n: int) -> None:
    recorded = OrderFingerprint()
    for s in range(step):
        recorded.update(sequence_ids(9, s, batch, num_sequences=n))
    assert (
        OrderFingerprint.at(9, step, batch, num_sequences=n).state_dict() == recorded.state_dict()
    )


def test_runs_agree_up_to_the_shorter_and_differ_after_a_swap() -> None:
    ids = sequence_ids(2, 0, 5000, num_sequences=10**5)
    swapped = ids.copy()
    swapped[[700, 701]] = ids[[701, 700]]
    digests = []
    for consumed in (ids, ids[:1500], swapped):
        fingerprint = OrderFingerprint()
        fingerprint.update(consumed)
        digests.append(fingerprint.digests)
    long, short, other = digests
    assert list(long) == [2**k for k in range(13)]
    assert list(short) == [2**k for k in range(11)]
    assert all(long[count] == short[count] for count in short)
    assert all((long[count] == other[count]) == (count <= 512) for count in long)
