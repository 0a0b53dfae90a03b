"""A driver's copies: what fails is reported, tried again, and missed only if it never arrives."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cola.data import PreparedData
from cola.errors import SpecError, StorageError
from cola.files import sha256_of
from cola.spec import load_yaml
from cola.study import StudySpec
from orchestration.cleanup.contents import Thing
from orchestration.cli.fetch import mirror_origin
from orchestration.output_mirror import run_mirror
from orchestration.output_mirror.bring import Brought
from orchestration.output_mirror.mirror import OutputMirror, mirror_of
from orchestration.output_mirror.run_mirror import RunMirror
from orchestration.planning.plan import plan_study
from orchestration.results.fetch import check_target, fetch
from orchestration.results.sources import open_source
from orchestration.state.event_log import EventLog, read_events
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, study_folder
from sweeps.cli import app
from tests.finished import finished_study, small_study

TINY = Thing("study", "tiny")


@pytest.fixture
def study(tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path) -> StudySpec:
    """A finished study of two seeds."""
    mirrored = {"seeds": [1, 2], "output_mirror": str(tmp_path / "mirror")}
    found = small_study(tiny_study | mirrored, tmp_path / "outputs")
    finished_study(found, data)
    return found


def copies_of(study: StudySpec, notes: list[str]) -> RunMirror:
    return RunMirror(mirror_of(study), TINY, EventLog(study_folder(study)), notify=notes.append)


def test_a_copy_that_fails_is_made_later(study: StudySpec, tmp_path: Path) -> None:
    first, second = plan_study(study)
    notes: list[str] = []
    done: list[str] = []
    copies = copies_of(study, notes)
    (tmp_path / "mirror").write_text("in the way")
    copies.ended(first.name, first.key, lambda: done.append(first.name))
    while not notes:
        copies.report()
    assert "not copied to the mirror, and tried again later: output_mirror=" in notes[0]
    (tmp_path / "mirror").unlink()
    copies.ended(second.name, second.key, lambda: done.append(second.name))
    assert copies.finish([]) == []
    assert sorted(done) == sorted([first.name, second.name])
    failed = [e for e in read_events(study_folder(study)) if e["event"] == "not mirrored"]
    assert first.name in [event["run"] for event in failed]
    mirror = mirror_of(study)
    assert mirror is not None
    states = [getattr(mirror.known(f"runs/{run.key}"), "state", None) for run in (first, second)]
    assert states == ["finished", "finished"]


def test_what_never_arrives_is_missed_by_name(study: StudySpec, tmp_path: Path) -> None:
    runs = plan_study(study)
    notes: list[str] = []
    copies = copies_of(study, notes)
    (tmp_path / "mirror").write_text("in the way")
    done: list[str] = []
    copies.ended(runs[0].name, runs[0].key, lambda: done.append(runs[0].name))
    unsent = copies.finish((run.name, run.key) for run in runs)
    assert sorted(unsent) == sorted([*(run.name for run in runs), "tiny"])
    assert done == []  # a run's checkpoints stay until its results have arrived
    # The next driver sends all that is there, whoever trained it.
    (tmp_path / "mirror").unlink()
    assert copies_of(study, notes).finish((run.name, run.key) for run in runs) == []


def test_without_a_mirror_what_follows_happens(study: StudySpec) -> None:
    done: list[str] = []
    copies = RunMirror(None, TINY, EventLog(study_folder(study)), notify=done.append)
    copies.launched("key")
    copies.refresh(["key"])
    copies.ended("run", "key", lambda: done.append("then"))
    assert copies.take("run", "key") is None
    assert (copies.finish([("run", "key")]), done) == ([], ["then"])


def test_what_is_damaged_is_replaced_when_its_run_has_ended(study: StudySpec) -> None:
    run, _ = plan_study(study)
    notes: list[str] = []
    assert copies_of(study, notes).finish([(run.name, run.key)]) == []
    mirror = mirror_of(study)
    assert mirror is not None
    (path,) = (Path(mirror.files.root) / "runs" / run.key / "model").glob("model.safetensors.*")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    kept = mirror.root.with_name("kept")
    shutil.copytree(mirror.root, kept)
    shutil.rmtree(mirror.root / "runs")
    copies = copies_of(study, notes)
    found = copies.take(run.name, run.key)
    assert found is not None
    assert found.damage is not None
    assert notes[-1].startswith(f"{run.name}: is damaged in the mirror, and not taken from it: ")
    Ledger(mirror.root).acquire(run.key)
    copies.launched(run.key)
    shutil.copytree(kept / "runs" / run.key, mirror.root / "runs" / run.key, dirs_exist_ok=True)
    copies.ended(run.name, run.key)  # trained again, to the same model
    assert copies.finish([]) == []
    assert path.read_bytes() == content


def test_a_mirror_is_fetched_without_a_cluster(study: StudySpec, tmp_path: Path) -> None:
    runs, here, address = plan_study(study), tmp_path / "here", str(study.output_mirror)
    with pytest.raises(SpecError, match="holds no study or sweep of this name"):
        mirror_origin(address, "tiny")
    copies_of(study, []).finish((run.name, run.key) for run in runs)
    shutil.rmtree(study.output)
    origin = mirror_origin(address, "tiny")
    check_target(here, origin)
    first = fetch(open_source(origin), here, origin, models=True)
    assert (len(first.copied), first.states) == (27, {"finished": 2})
    check_target(here, origin)
    again = fetch(open_source(origin), here, origin, models=True)
    assert (again.copied, len(again.unchanged)) == ([], 27)
    spec = StudySpec.parse(load_yaml(here / "studies" / "tiny" / "study.yaml"))
    assert (spec.output, spec.output_mirror) == (str(here), None)
    # What is damaged is not brought.
    (path,) = (Path(address) / "runs" / runs[0].key).glob("journal.jsonl.*")
    path.write_bytes(path.read_bytes()[:-2])
    (here / "runs" / runs[0].key / "journal.jsonl").unlink()
    with pytest.raises(StorageError, match=r"journal\.jsonl is not what its checksum says"):
        fetch(open_source(origin), here, origin, models=True)


def test_options_that_are_no_mirror_are_refused() -> None:
    for arguments, problem in (
        (["--mirror", "s3://b/x", "--cluster", "c"], "--cluster c: --mirror needs no cluster"),
        (["--mirror", "s3://a:b@c/d"], "--mirror=s3://c/d: holds credentials"),
        (["--mirror", "/no/such/folder"], "tiny: /no/such/folder holds no study or sweep"),
    ):
        result = CliRunner().invoke(app, ["fetch", "tiny", *arguments])
        assert isinstance(result.exception, SpecError)
        assert str(result.exception).startswith(problem)


def damage_there(study: StudySpec, key: str) -> tuple[Path, bytes]:
    """Damage the run's journal in the mirror, and forget the run here."""
    (path,) = (Path(str(study.output_mirror)) / "runs" / key).glob("journal.jsonl.*")
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"x\n")
    shutil.rmtree(Path(study.output) / "runs" / key)
    return path, content


def test_what_is_damaged_stays_where_its_run_is_not_trained_here(study: StudySpec) -> None:
    """As of a run of another rung, or one that a stop left: somebody may restore it."""
    run, other = plan_study(study)
    notes: list[str] = []
    copies_of(study, notes).finish([(run.name, run.key)])
    path, _ = damage_there(study, run.key)
    before = files_there(study)
    copies = copies_of(study, notes)
    for _ in range(2):
        found = copies.take(run.name, run.key)
        assert found is not None
        assert found.damage is not None
    assert len([note for note in notes if note.startswith(f"{run.name}: is damaged")]) == 1
    ledger = Ledger(Path(study.output))
    ledger.acquire(run.key)
    copies.record()
    assert copies.finish([(run.name, run.key), (other.name, other.key)]) == []
    assert path.exists()
    assert before.items() <= files_there(study).items()
    # Nor while it is trained here: the driver may be lost before it has something better.
    launched = copies_of(study, notes)
    launched.take(run.name, run.key)
    launched.launched(run.key)
    launched.finish([])
    assert before.items() <= files_there(study).items()
    ended = copies_of(study, notes)
    ended.take(run.name, run.key)
    ledger.close(run.key, "diverged", "loss not finite")
    ended.ended(run.name, run.key)
    assert ended.finish([]) == []
    assert not path.exists()


def test_runs_that_others_launched_are_not_sent_before_they_are_finished(study: StudySpec) -> None:
    run, other = plan_study(study)
    ledger = Ledger(Path(study.output))
    RunFolder(ledger.run_folder(run.key)).ledger.unlink()
    ledger.acquire(run.key)
    assert copies_of(study, []).finish((each.name, each.key) for each in (run, other)) == []
    listed = {name for name in files_there(study) if name.endswith("results.json")}
    assert listed == {f"runs/{other.key}/results.json"}


def files_there(study: StudySpec) -> dict[str, str]:
    folder = Path(str(study.output_mirror))
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in (folder / "runs").rglob("*")
        if path.is_file()
    }


def test_records_of_a_newer_release_stay(study: StudySpec) -> None:
    """Also where the run is launched here and diverges."""
    run, _ = plan_study(study)
    notes: list[str] = []
    ledger = Ledger(Path(study.output))
    entry = RunFolder(ledger.run_folder(run.key)).ledger
    entry.unlink()
    ledger.acquire(run.key)
    ledger.close(run.key, "interrupted")
    values = json.loads(entry.read_text())
    newer = json.dumps(values | {"later": 1})
    copies = copies_of(study, notes)
    copies.ended(run.name, run.key)
    copies.finish([])
    folder = Path(str(study.output_mirror)) / "runs" / run.key
    (old,) = folder.glob("ledger.json.*")
    old.unlink()
    digest = hashlib.sha256(newer.encode()).hexdigest()
    (folder / f"ledger.json.{digest[:16]}").write_text(newer)
    listed = json.loads((folder / "results.json").read_text())
    listed["files"]["ledger.json"] = {"bytes": len(newer), "sha256": digest}
    (folder / "results.json").write_text(json.dumps(listed))
    shutil.rmtree(ledger.run_folder(run.key))
    before, copies = files_there(study), copies_of(study, notes)
    found = copies.take(run.name, run.key)
    assert found is not None
    assert "its records cannot be used" in str(found.damage)
    for _ in range(2):
        ledger.acquire(run.key)
        copies.launched(run.key)
        ledger.close(run.key, "diverged")
        copies.ended(run.name, run.key)
    assert copies.finish([(run.name, run.key)]) == []
    assert files_there(study) == before


def test_the_last_copies_wait_for_those_under_way(
    study: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a later one of the same folder, which has not begun, is not made any more."""
    run, other = plan_study(study)
    begun, go_on = threading.Semaphore(0), threading.Event()
    under_way: list[int] = [0, 0]  # copies of the first run: at a time, and at most
    waited: list[int] = []
    send, wait = OutputMirror.send_run, run_mirror.wait

    def slow(mirror: OutputMirror, key: str) -> int:
        under_way[0] += key == run.key
        under_way[1] = max(under_way)
        begun.release()
        go_on.wait()
        sent = send(mirror, key)
        under_way[0] -= key == run.key
        return sent

    def noted(jobs: list[Future[None]]) -> object:
        if threading.current_thread() is threading.main_thread():
            waited.append(sum(not job.done() for job in jobs))
            go_on.set()
        return wait(jobs)

    monkeypatch.setattr(OutputMirror, "send_run", slow)
    monkeypatch.setattr(run_mirror, "wait", noted)
    copies = copies_of(study, [])
    copies.ended(run.name, run.key)
    for _ in range(run_mirror.THREADS):
        copies.ended(other.name, other.key)
    copies.ended(run.name, run.key)
    begun.acquire()
    copies.finish([])
    assert waited[0] >= 1  # what had begun
    assert under_way == [0, 1]


def fail_after(copies: RunMirror, steps: Callable[[], None]) -> None:
    with copies.closing():
        steps()
        raise ZeroDivisionError


def test_what_a_failing_driver_launched_is_copied(study: StudySpec, tmp_path: Path) -> None:
    run, _ = plan_study(study)
    notes: list[str] = []
    with pytest.raises(ZeroDivisionError):
        fail_after(copies_of(study, notes), lambda: None)
    assert not (tmp_path / "mirror").exists()  # nothing was launched
    copies = copies_of(study, notes)
    with pytest.raises(ZeroDivisionError):
        fail_after(copies, lambda: copies.launched(run.key))
    mirror = mirror_of(study)
    assert mirror is not None
    assert getattr(mirror.known(f"runs/{run.key}"), "state", None) == "finished"
    assert notes == []
    shutil.rmtree(tmp_path / "mirror")
    (tmp_path / "mirror").write_text("in the way")
    blocked = copies_of(study, notes)
    with pytest.raises(ZeroDivisionError):
        fail_after(blocked, lambda: blocked.launched(run.key))
    assert notes[-1].startswith("the output's mirror does not have all of ")
    assert run.key[:12] in notes[-1]


def test_two_threads_report_one_after_the_other(study: StudySpec) -> None:
    second: list[threading.Thread] = []
    waits: list[bool] = []

    def report(_: str) -> None:
        if not second:
            second.append(threading.Thread(target=copies.taken, args=("second", brought)))
            second[0].start()
            second[0].join(0.05)
            waits.append(second[0].is_alive())

    brought = Brought("key", "finished")
    copies = RunMirror(mirror_of(study), TINY, EventLog(study_folder(study)), notify=report)
    copies.taken("first", brought)
    second[0].join()
    assert waits == [True]
    copies.finish([])
