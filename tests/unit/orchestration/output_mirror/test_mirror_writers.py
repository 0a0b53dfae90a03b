"""A mirror with several drivers, and one whose release or state is another."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from cola.errors import StorageError
from cola.spec.resources import DivergenceRetry
from cola.study import StudySpec
from orchestration.output_mirror import mirror as mirroring
from orchestration.output_mirror.bring import bring_run
from orchestration.output_mirror.mirror import OutputMirror
from orchestration.output_mirror.planned import (
    foreseen,
    foreseen_plan,
    with_models,
)
from orchestration.output_mirror.stored import StoredFiles
from orchestration.planning.decisions import RunDecision, decide
from orchestration.planning.plan import PlannedRun
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, study_folder
from tests.unit.orchestration.output_mirror.test_mirror import TINY, forget


def interrupted_here(mirror: OutputMirror, key: str, attempts: int = 1) -> Ledger:
    """The ledger of a run of `mirror` that was stopped."""
    RunFolder(mirror.root / "runs" / key).ledger.unlink()
    ledger = Ledger(mirror.root)
    for _ in range(attempts):
        ledger.acquire(key)
        ledger.close(key, "interrupted", "stopped")
    return ledger


def elsewhere(mirror: OutputMirror) -> OutputMirror:
    """The same mirror for a driver whose output folder is empty."""
    return OutputMirror(mirror.files.address, mirror.root.with_name("elsewhere"))


def add_to_journal(mirror: OutputMirror, key: str) -> None:
    with RunFolder(mirror.root / "runs" / key).journal.open("a") as file:
        file.write("{}\n")


def test_a_stale_journal_replaces_no_newer_one(mirror: OutputMirror, run: PlannedRun) -> None:
    """Of a run that was taken from the mirror, until an attempt is made here."""
    interrupted_here(mirror, run.key).acquire(run.key)
    mirror.send_run(run.key)
    other = elsewhere(mirror)
    assert bring_run(other, run.key) is not None
    add_to_journal(mirror, run.key)  # its own driver trains on
    mirror.send_run(run.key)
    newer = mirror.known(f"runs/{run.key}")
    assert other.send_run(run.key) == 0
    assert mirror.known(f"runs/{run.key}") == newer
    Ledger(other.root).acquire(run.key)  # the other driver is lost
    assert other.send_run(run.key) > 0
    assert getattr(mirror.known(f"runs/{run.key}"), "attempts", None) == 3


def test_later_answers_of_a_finished_run_stay(mirror: OutputMirror, run: PlannedRun) -> None:
    mirror.send_run(run.key)
    other = elsewhere(mirror)
    assert bring_run(other, run.key) is not None
    (other.root / "runs" / run.key / "samples.jsonl").write_text("{}\n")
    assert other.send_run(run.key) == 1  # nothing newer is there
    (other.root / "runs" / run.key / "samples.jsonl").write_text("{}\n{}\n")
    assert other.send_run(run.key) == 1
    add_to_journal(mirror, run.key)
    assert mirror.send_run(run.key) == 1
    newer = mirror.known(f"runs/{run.key}")
    assert other.send_run(run.key) == 0
    assert mirror.known(f"runs/{run.key}") == newer


def test_a_partly_lost_model_leaves_the_whole_one_there(
    mirror: OutputMirror, run: PlannedRun
) -> None:
    mirror.send_run(run.key)
    before = mirror.known(f"runs/{run.key}")
    assert before is not None
    (mirror.root / "runs" / run.key / "model" / "model.safetensors").unlink()
    add_to_journal(mirror, run.key)
    assert mirror.send_run(run.key) == 1
    after = mirror.known(f"runs/{run.key}")
    assert after is not None
    assert set(after.files) == set(before.files)
    assert mirror.lacks(after) == []


def test_a_model_that_is_damaged_in_place_comes_back(
    mirror: OutputMirror, study: StudySpec, run: PlannedRun
) -> None:
    mirror.send_run(run.key)
    weights = mirror.root / "runs" / run.key / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    ledger, reported = Ledger(mirror.root), list[str]()

    def decided(plan: Sequence[PlannedRun]) -> list[RunDecision]:
        return decide(plan, ledger, study_folder(study))

    (decision,) = foreseen(decided([run]), mirror, None)
    assert decision.why == "finished in the mirror, from which `cola run` takes it"
    (decision,) = with_models(
        decided([run]), mirror, decided, report=lambda run, found: reported.append(found.state)
    )
    assert decision.why == "finished already, with the same specification; from the mirror"
    assert (weights.read_bytes(), reported) == (content, ["finished"])


def test_a_list_that_is_replaced_while_it_is_read_is_no_damage(
    mirror: OutputMirror, run: PlannedRun
) -> None:
    """However often: whoever replaces it trains the run."""
    interrupted_here(mirror, run.key)
    mirror.send_run(run.key)
    other = elsewhere(mirror)
    read, times = StoredFiles.read, 2

    class Replaced(StoredFiles):
        def read(self, name: str, folder: Path) -> Path | None:
            nonlocal times
            if "journal" in name and times > 0:
                times -= 1
                add_to_journal(mirror, run.key)
                mirror.send_run(run.key)
            return read(self, name, folder)

    other.files = Replaced(mirror.files.address, mirror.files.filesystem, mirror.files.root)
    found = bring_run(other, run.key)
    assert (found and found.state, found and found.damage) == ("interrupted", None)
    shutil.rmtree(other.root)
    times = 100
    found = bring_run(other, run.key)
    assert (found and found.usable, found and found.damage is None) == (True, False)


def test_two_writers_of_a_study_lead_to_files_that_are_there(
    mirror: OutputMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.send_thing(TINY)
    other = elsewhere(mirror)
    shutil.copytree(mirror.root / TINY.folder, other.root / TINY.folder)
    first = mirror.known(TINY.folder)
    assert first is not None
    for writer in (mirror, other, mirror):
        with (writer.root / TINY.folder / "events.jsonl").open("a") as events:
            events.write(f'{{"of": "{writer.root.name}"}}\n')
        writer.send_thing(TINY)
        assert mirror.lacks(first) == []  # another writer may be about to name them
    listed = mirror.known(TINY.folder)
    assert listed is not None
    assert len(listed.former) == 3
    monkeypatch.setattr(mirroring, "FORMER_SECONDS", -1.0)
    mirror.send_thing(TINY)
    assert sorted(mirror.files.sizes(TINY.folder)) == sorted([*listed.objects(), "results.json"])


def test_a_list_of_a_newer_release_is_left_alone(mirror: OutputMirror, run: PlannedRun) -> None:
    mirror.send_run(run.key)
    path = Path(mirror.files.root) / "runs" / run.key / "results.json"
    text = path.read_text().replace('"format": 1', '"format": 2')
    path.write_text(text)
    with pytest.raises(StorageError, match="was written by a newer release; use that one"):
        mirror.send_run(run.key)
    forget(mirror)
    found = bring_run(mirror, run.key)
    assert (found and found.usable) is True
    assert path.read_text() == text


def test_a_plan_follows_retries_that_the_mirror_has(mirror: OutputMirror, run: PlannedRun) -> None:
    ledger = interrupted_here(mirror, run.key)
    ledger.acquire(run.key)
    ledger.close(run.key, "diverged", "loss not finite")
    mirror.send_run(run.key)
    forget(mirror)
    retry = DivergenceRetry(times=2, factor=0.5)
    assert [each.name for each in foreseen_plan([run], retry, mirror)] == [f"{run.name}-retry1"]
    assert foreseen_plan([run], None, mirror) == [run]
    assert not (mirror.root / "runs").exists()
