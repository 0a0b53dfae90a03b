"""The micro-batch: from free memory, from a record, and halved."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cola.data import micro_batches
from cola.errors import RunError
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec
from orchestration.planning.memory import memory_plan
from orchestration.step.micro_batch import (
    GroupShortageError,
    Halvings,
    MicroBatchRecord,
    Shortage,
    largest_pass,
    recorded_size,
    shortage_at,
    size_that_fits,
    smallest,
)


@pytest.mark.parametrize(
    ("batch", "workers", "micro", "largest"),
    [(8, 1, None, 8), (8, 1, 3, 3), (8, 1, 5, 4), (8, 3, None, 3), (8, 3, 2, 2), (7, 2, 3, 2)],
)
def test_the_largest_pass_is_what_the_slices_give(
    batch: int, workers: int, micro: int | None, largest: int
) -> None:
    count = micro_batches(batch, workers, micro)
    share = -(-batch // workers)
    assert largest == max(share * (i + 1) // count - share * i // count for i in range(count))
    assert largest_pass(batch, workers, micro) == largest


def test_sizes_are_halved_down_to_one_sequence() -> None:
    sizes = [12]
    while sizes[-1] > 1:
        sizes.append(shortage_at(4, sizes[-1], "CUDA out of memory", stage="train").smaller)
    assert sizes == [12, 6, 3, 2, 1]
    with pytest.raises(RunError, match=r"one sequence of stage train does not fit .* at step 5"):
        shortage_at(4, 1, "CUDA out of memory", stage="train")


def short(sequences: int) -> GroupShortageError:
    smaller = -(-sequences // 2)
    return GroupShortageError(Shortage(4, sequences, smaller, "CUDA out of memory"))


def test_a_group_that_halves_its_passes_has_not_failed() -> None:
    """Whatever the workers that were left behind raise; but a size twice was not in effect."""
    halvings, other = Halvings(), RuntimeError("Connection closed by peer")
    assert not halvings.has([other])
    assert halvings.has([other, short(8)])
    assert halvings.has([short(4), short(4)])
    assert not halvings.has([other])
    assert not halvings.has([short(4)])
    assert halvings.has([short(2)])


def test_a_shortage_reaches_another_process_whole() -> None:
    sent = pickle.loads(pickle.dumps(short(8)))
    assert (sent.shortage, str(sent)) == (short(8).shortage, str(short(8)))


def test_free_memory_decides_up_to_the_share_of_the_device(runs: dict[str, RunSpec]) -> None:
    run, resources = (
        runs["ar"],
        ResourcesSpec(micro_batch_sequences=8, zero_stage=0, activation_checkpointing="never"),
    )
    sizes = [1, 2, 4, 8]
    need = {}
    for size in sizes:
        given = resources.model_copy(update={"micro_batch_sequences": size})
        need[size] = 1 + memory_plan(run, given, 0, device_bytes=0.0).total
        assert size_that_fits(run, resources, need[size], total=1e12) == size
    assert size_that_fits(run, resources, 0.0, total=1e12) == 1
    half = resources.model_copy(update={"gpus_per_worker": 0.5})
    assert size_that_fits(run, half, 1e12, total=2 * need[2]) == 2


def test_free_memory_decides_for_the_passes_that_workers_make(runs: dict[str, RunSpec]) -> None:
    """Where `auto` was not turned into checkpointing by the plan, activations are kept."""
    deep = runs["ar"].model.model_copy(update={"num_layers": 48})
    run, auto = runs["ar"].model_copy(update={"model": deep}), ResourcesSpec(zero_stage=0)
    always = auto.model_copy(update={"activation_checkpointing": "always"})
    one = auto.model_copy(update={"micro_batch_sequences": 1})
    # Too little for one sequence whose activations are kept; by the plan checkpointing fits.
    free = memory_plan(run, one, 0, device_bytes=1e18).total - 1
    assert memory_plan(run, auto, 0, device_bytes=free).checkpoints_activations
    assert size_that_fits(run, always, free, total=1e12) > 1
    assert size_that_fits(run, auto, free, total=1e12) == 1


def test_a_record_counts_for_its_own_device_and_sharding(tmp_path: Path) -> None:
    path = tmp_path / "micro_batch.json"
    same = {"workers": 2, "zero_stage": 1, "device": "NVIDIA H100"}
    assert recorded_size(path, workers=2, zero_stage=1, device="NVIDIA H100") is None
    MicroBatchRecord(micro_batch_sequences=4, workers=2, zero_stage=1, device="NVIDIA H100").write(
        path
    )
    assert recorded_size(path, workers=2, zero_stage=1, device="NVIDIA H100") == 4
    for other in ({"workers": 1}, {"zero_stage": 2}, {"device": "NVIDIA H200"}):
        assert recorded_size(path, **(same | other)) is None  # type: ignore[arg-type]
    for damaged in ("", "{}", '{"micro_batch_sequences": 0}', "[1]"):
        path.write_text(damaged)
        assert recorded_size(path, workers=2, zero_stage=1, device="NVIDIA H100") is None


def test_the_smallest_given_size_counts() -> None:
    assert smallest(None, None) is None
    assert smallest(8, None, 3) == 3
