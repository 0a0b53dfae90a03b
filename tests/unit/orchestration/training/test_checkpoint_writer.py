"""Checkpoints of a training loop in process: what fails, what is kept, what a step waits for."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cola.data import PreparedData
from cola.study import RunSpec, StudySpec
from orchestration.checkpoint.manifest import newest_valid
from orchestration.checkpoint.retention import RetentionPolicy
from orchestration.checkpoint.store import CheckpointStore
from orchestration.planning.plan import plan_study
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalReader, JournalWriter
from orchestration.state.ledger import LEASE_STALE_SECONDS, Ledger
from orchestration.training.checkpoint_fetch import CheckpointFetcher
from orchestration.training.checkpoint_writer import CheckpointWriter
from orchestration.training.distributed import WorkerRank
from orchestration.training.hooks import Checkpoint, Evaluate, StopOnRequest
from orchestration.training.sharded_state import fragments_file
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import LoopSettings, TrainState, train
from orchestration.training.validation import evaluation_steps


@pytest.fixture
def run(tiny_study: dict[str, Any]) -> RunSpec:
    ladder = [{"budget": 1.0e10, "core_parameters": 60_000}]
    study = StudySpec.parse(tiny_study | {"ladder": ladder, "families": {"ar": {}}})
    spec = plan_study(study)[0].spec
    return spec.model_copy(update={"stages": [spec.stages[0].model_copy(update={"steps": 16})]})


class Losses:
    def __init__(self) -> None:
        self.values: dict[int, float] = {}

    def __call__(self, state: TrainState) -> None:
        self.values[state.step] = state.result.values["loss"]


def writer(
    root: Path,
    journal: Path,
    upload: Any = "sync",
    policy: RetentionPolicy | None = None,
    **options: Any,
) -> CheckpointWriter:
    return CheckpointWriter(
        CheckpointStore(str(root)),
        options.pop("attempt", 1),
        WorkerRank(),
        policy=policy or RetentionPolicy(2),
        upload=upload,
        journal=JournalWriter(journal),
        **options,
    )


def trained(run: RunSpec, data: PreparedData, *hooks: Any, **options: Any) -> TrainState:
    return train(
        run,
        data.train,
        TorchEngine,
        settings=LoopSettings(0),
        worker=WorkerRank(),
        hooks=hooks,
        **options,
    )


def failures(journal: Path) -> list[tuple[int, str]]:
    return [
        (line.step, line.values["reason"])
        for line in JournalReader(journal).new_lines()
        if line.kind == "event" and line.values["event"] == "checkpoint failed"
    ]


class Filler:
    """Keeps a disk full from one step on until another."""

    def __init__(self, disk: Path, fill: int, clear: int) -> None:
        self._path, self._full, self._clear = disk / "filler", range(fill, clear), clear

    def __call__(self, state: TrainState) -> None:
        if state.step in self._full:
            with self._path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
        elif state.step == self._clear:
            self._path.unlink()


@pytest.mark.parametrize("full", ["storage", "local disk"])
@pytest.mark.parametrize("upload", ["sync", "async"])
def test_a_full_disk_costs_checkpoints_and_nothing_else(
    full: str,
    upload: str,
    run: RunSpec,
    data: PreparedData,
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed, disturbed, resumed = Losses(), Losses(), Losses()
    trained(run, data, undisturbed)
    root, journal = tmp_path / "store", tmp_path / "journal.jsonl"
    (tmp_path / "local").mkdir()  # of this test alone: what others leave in theirs is not its own
    local = tmp_path / "local" if full == "storage" else small_disk
    monkeypatch.setattr(tempfile, "tempdir", str(local))
    if full == "storage":
        root = small_disk / "store"
    save = writer(root, journal, upload)
    whole: list[list[int]] = []

    def look(state: TrainState) -> None:
        found = [save._store.complete(item) for item in save._store.stored()]
        whole.append([item.cursor.step for item in found if item is not None])

    last, clear = run.steps - 1, run.steps - 3
    # Settled first, so that what is under way is over when the disk turns full.
    fill = Filler(small_disk, 5, clear)
    hooks = [disturbed, lambda state: save.settle(), fill, Checkpoint(1e-9, save), look]
    assert trained(run, data, *hooks).stop == "finished"
    save.close()
    assert disturbed.values == undisturbed.values

    failed = failures(journal)
    assert all("No space left" in reason for _, reason in failed)
    assert [step for step, _ in failed] == list(range(5, clear))
    # Meanwhile the newest whole one stayed, alone.
    assert whole[5 : clear - 1] == [[4]] * (clear - 6)
    chosen = newest_valid([save._store.folder(i.name) for i in save._store.stored()])
    assert chosen is not None
    assert chosen[1].step == last
    assert [item.step for item in save._store.stored()] == [last - 1, last]
    assert not list(Path(tempfile.gettempdir()).glob("cola-checkpoint-*"))
    trained(run, data, resumed, resume=chosen)
    assert resumed.values == {run.steps: undisturbed.values[run.steps]}


def test_older_ones_are_given_up_for_a_new_one(
    run: RunSpec, data: PreparedData, small_disk: Path, tmp_path: Path
) -> None:
    """Room for two: the third fails, its failure makes room, and the next one is whole."""
    journal, whole = tmp_path / "journal.jsonl", []
    save = writer(small_disk / "store", journal)

    def fill(state: TrainState) -> None:
        if state.step == 3:
            Filler(small_disk, 3, 4)(state)

    def look(state: TrainState) -> None:
        whole.append([item.step for item in save._store.stored() if save._store.complete(item)])

    trained(run, data, fill, Checkpoint(1e-9, save), look)
    assert [step for step, _ in failures(journal)] == [3, 5, 7, 9, 11, 13, 15]
    assert whole[1:6] == [[1, 2], [2], [2, 4], [4], [4, 6]]


def test_a_torn_checkpoint_is_neither_resumed_from_nor_trusted_by_retention(
    run: RunSpec, data: PreparedData, tmp_path: Path
) -> None:
    undisturbed, after = Losses(), Losses()
    trained(run, data, undisturbed)
    root, journal = tmp_path / "store", tmp_path / "journal.jsonl"
    save = writer(root, journal)

    def stop(state: TrainState) -> None:
        if state.step == 6:
            state.stop = "interrupted"

    trained(run, data, stop, Checkpoint(1e-9, save))
    save.close()
    torn = fragments_file(root / "attempt-1" / "step-000000006", 0)
    torn.write_bytes(torn.read_bytes()[:-100])
    fetcher = CheckpointFetcher(save._store, WorkerRank())
    chosen = newest_valid(fetcher.folders(), fetcher.fetch)
    assert chosen is not None
    assert chosen[1].step == 5
    # With only one to keep, a new one of step 6 counts, not the torn one of equal age.
    trusted = fetcher.name_of(chosen[0])
    again = writer(root, journal, policy=RetentionPolicy(1), attempt=2, resumed_from=trusted)
    trained(run, data, after, stop, Checkpoint(1e-9, again), resume=chosen)
    again.close()
    assert [item.name for item in again._store.stored()] == ["attempt-2/step-000000006"]
    assert after.values == {6: undisturbed.values[6]}


def test_evaluation_points_and_the_best_are_kept(
    run: RunSpec, data: PreparedData, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    points = frozenset(evaluation_steps(run))
    policy = RetentionPolicy(1, best=True, points=True)
    save = writer(tmp_path / "store", journal, "async", policy, points=points)
    evaluate = Evaluate(run, data, None)
    trained(run, data, evaluate, Checkpoint(3600, save, points))
    save.close()
    found = {item.step: save._store.complete(item) for item in save._store.stored()}
    assert set(found) == points
    scores = {step: item.note.validation_nll for step, item in found.items() if item is not None}
    assert scores[run.steps] == min(score for score in scores.values() if score is not None)


@pytest.mark.parametrize("upload", ["sync", "async"])
def test_a_stale_writer_neither_publishes_nor_prunes(
    upload: str, run: RunSpec, data: PreparedData, tmp_path: Path
) -> None:
    """Its driver was frozen at step 5; the successor has written checkpoints since."""
    now = 1_000_000.0
    first = Ledger(tmp_path, clock=lambda: now)
    second = Ledger(tmp_path, clock=lambda: now + LEASE_STALE_SECONDS + 1)
    first.acquire("k")
    folder, root = first.run_folder("k"), tmp_path / "store"
    stale = writer(root, folder / "journal.jsonl", upload, fence=AttemptFence(folder, 1))
    left: list[str] = []

    def take_over(state: TrainState) -> None:
        if state.step == 5:
            stale.settle()
            second.acquire("k")
            fence = AttemptFence(folder, 2)
            fresh = writer(root, folder / "journal.jsonl", attempt=2, fence=fence)
            fresh(state)
            fresh.close()
            left.extend(item.name for item in fresh._store.stored())

    trained(run, data, take_over, Checkpoint(1e-9, stale))
    stale.close()
    assert left == ["attempt-1/step-000000004", "attempt-2/step-000000005"]
    assert [item.name for item in stale._store.stored()] == left
    assert failures(folder / "journal.jsonl") == []


def test_a_checkpoint_under_way_when_another_takes_over_is_not_published(
    run: RunSpec, data: PreparedData, tmp_path: Path
) -> None:
    now = 1_000_000.0
    first = Ledger(tmp_path, clock=lambda: now)
    second = Ledger(tmp_path, clock=lambda: now + LEASE_STALE_SECONDS + 1)
    first.acquire("k")
    folder = first.run_folder("k")
    stale = writer(tmp_path / "store", folder / "journal.jsonl", fence=AttemptFence(folder, 1))

    class TakenOverWhileSaving(TrainState):
        def save(self, folder: Path) -> None:
            super().save(folder)
            second.acquire("k")

    def save(state: TrainState) -> None:
        if state.step == 3:
            stale(TakenOverWhileSaving(**vars(state)))

    trained(run, data, save)
    stale.close()
    assert stale._store.stored() == []


def test_workers_of_an_older_attempt_stop(run: RunSpec, data: PreparedData, tmp_path: Path) -> None:
    now = 1_000_000.0
    first = Ledger(tmp_path, clock=lambda: now)
    second = Ledger(tmp_path, clock=lambda: now + LEASE_STALE_SECONDS + 1)
    first.acquire("k")
    folder = first.run_folder("k")
    seconds = iter(range(0, 1000, 3))  # a check is due at every step
    fence = AttemptFence(folder, 1, clock=lambda: float(next(seconds)))

    def take_over(state: TrainState) -> None:
        if state.step == 4:
            second.acquire("k")

    state = trained(run, data, take_over, StopOnRequest(folder, fence=fence))
    # Rank 0 looks before the hooks of a step act, and `take_over` is one.
    assert (state.stop, state.step) == ("interrupted", 5)
    assert trained(run, data, StopOnRequest(folder, fence=AttemptFence(folder, 2))).step == 16
