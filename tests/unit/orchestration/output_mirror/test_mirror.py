"""A study's results in a mirror: whole for every reader, and taken from it where they lack."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cola.errors import SpecError, StorageError
from cola.files import sha256_of
from cola.study import StudySpec
from orchestration.cleanup.contents import Thing
from orchestration.output_mirror.bring import bring_run, bring_runs, bring_thing
from orchestration.output_mirror.mirror import TAKEN, OutputMirror, check_mirror_address, mirror_of
from orchestration.output_mirror.planned import (
    foreseen,
    plan_with_mirror,
    taken,
)
from orchestration.planning.decisions import decide
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.state.journal import JournalWriter
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, study_folder

TINY = Thing("study", "tiny")


def files_below(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in found}


def forget(mirror: OutputMirror) -> None:
    shutil.rmtree(mirror.root)
    mirror.root.mkdir()


def object_of(mirror: OutputMirror, key: str, name: str) -> Path:
    (found,) = (Path(mirror.files.root) / "runs" / key).glob(f"{name}.*")
    return found


def test_what_is_lost_here_comes_back_whole_and_equal(
    mirror: OutputMirror, study: StudySpec, run: PlannedRun
) -> None:
    before = files_below(mirror.root / "runs" / run.key)
    assert (mirror.send_run(run.key), mirror.send_run(run.key)) == (12, 0)
    assert (mirror.send_thing(TINY), mirror.send_thing(TINY)) == (3, 0)
    forget(mirror)
    (decision,) = foreseen(decide([run], Ledger(mirror.root), study_folder(study)), mirror, None)
    assert (decision.action, decision.why) == (
        "reuse", "finished in the mirror, from which `cola run` takes it",
    )  # fmt: skip
    assert not (mirror.root / "runs").exists()
    plan, found = plan_with_mirror([run], None, mirror, report=lambda run, found: None)
    (decision,) = taken(decide(plan, Ledger(mirror.root), study_folder(study)), found)
    assert (decision.action, decision.why) == (
        "reuse", "finished already, with the same specification; from the mirror",
    )  # fmt: skip
    after = files_below(mirror.root / "runs" / run.key)
    assert {name: after[name] for name in after if name not in ("ledger.lock", TAKEN)} == {
        name: before[name] for name in before if name != "ledger.lock"
    }
    assert bring_run(mirror, run.key) is None
    assert bring_thing(mirror, TINY)
    assert not bring_thing(mirror, TINY)
    assert (mirror.send_run(run.key), mirror.send_thing(TINY)) == (0, 0)


@pytest.mark.parametrize("name", ["model/model.safetensors", "journal.jsonl", "ledger.json"])
@pytest.mark.parametrize("damage", ["changed", "cut off", "gone"])
def test_what_is_damaged_there_is_named_and_not_taken(
    mirror: OutputMirror, run: PlannedRun, name: str, damage: str
) -> None:
    mirror.send_run(run.key)
    path = object_of(mirror, run.key, name)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"" if damage == "cut off" else bytes([content[-1] ^ 1])))
    # What is whole here heals it there; that a file was changed shows when it is read alone.
    assert mirror.send_run(run.key) == (0 if damage == "changed" else 1)
    if damage != "changed":
        assert path.read_bytes() == content
        return
    forget(mirror)
    found = bring_run(mirror, run.key)
    assert found is not None
    shown = path.relative_to(path.parents[name.count("/")])
    assert found.damage == f"runs/{run.key}/{shown} is not what its checksum says"
    assert Ledger(mirror.root).entry(run.key).state == "new"
    assert [path for path in mirror.root.rglob("*") if path.is_file()] == []


def test_a_list_that_is_damaged_or_of_another_run_names_itself(
    mirror: OutputMirror, run: PlannedRun, study: StudySpec
) -> None:
    mirror.send_run(run.key)
    forget(mirror)
    path = Path(mirror.files.root) / "runs" / run.key / "results.json"
    text = path.read_text()
    for wrong, reason in (
        (text[:-9], "is no list of the files"),
        (text.replace(run.key, "other"), "is that of runs/other"),
        (text.replace('"journal.jsonl"', '"../x"'), r"names \.\./x, which leads elsewhere"),
    ):
        path.write_text(wrong)
        found = bring_run(mirror, run.key)
        assert found is not None
        assert found.damage is not None
        assert re.search(reason, found.damage)
        decisions = decide([run], Ledger(mirror.root), study_folder(study))
        (decision,) = foreseen(decisions, mirror, None)
        assert decision.action == "start"
        assert "; in the mirror: " in decision.why
    # Another run's folder under this run's name.
    path.write_text(text)
    other = mirror.root / "runs" / ("0" * 64)
    assert bring_run(mirror, other.name) is None
    shutil.copytree(path.parent, path.parent.with_name(other.name))
    copied = path.parent.with_name(other.name) / "results.json"
    copied.write_text(text.replace(run.key, other.name))
    found = bring_run(mirror, other.name)
    assert found is not None
    assert found.damage == "its records are those of another run"


def test_an_interrupted_run_counts_its_attempts_on(mirror: OutputMirror, run: PlannedRun) -> None:
    folder = RunFolder(mirror.root / "runs" / run.key)
    folder.ledger.unlink()
    ledger = Ledger(mirror.root)
    for _ in range(2):
        ledger.acquire(run.key)
        ledger.close(run.key, "interrupted", "stopped")
    ledger.acquire(run.key)  # its driver is lost
    assert mirror.send_run(run.key) == 6  # no model, no outcome's answers
    forget(mirror)
    (found,) = bring_runs(mirror, [run.key])
    assert (found.state, found.damage) == ("running", None)
    entry = Ledger(mirror.root).entry(run.key)
    assert (entry.state, len(entry.attempts), entry.lease) == ("interrupted", 3, None)
    assert "left it in the mirror" in str(entry.reason)
    assert not folder.model.exists()
    assert len(Ledger(mirror.root).acquire(run.key).attempts) == 4
    # It trains here now, and nothing is taken from the mirror, nor given to it by an older driver.
    assert bring_run(mirror, run.key) is None
    mirror.send_run(run.key)
    older = OutputMirror(mirror.files.address, mirror.root.with_name("older"))
    shutil.copytree(mirror.root, older.root)
    (older.root / "runs" / run.key / "ledger.json").unlink()
    Ledger(older.root).acquire(run.key)
    assert older.send_run(run.key) == 0
    listed = mirror.known(f"runs/{run.key}")
    assert listed is not None
    assert (listed.state, listed.attempts) == ("running", 4)


def test_a_finished_run_stays_whole_while_others_write(
    mirror: OutputMirror, run: PlannedRun
) -> None:
    mirror.send_run(run.key)
    before = mirror.known(f"runs/{run.key}")
    assert before is not None
    # A driver of another folder is behind, one trains the same run, one has lost its model.
    other = OutputMirror(mirror.files.address, mirror.root.with_name("other"))
    Ledger(other.root).acquire(run.key)
    assert other.send_run(run.key) == 0
    assert mirror.known(f"runs/{run.key}") == before
    shutil.rmtree(mirror.root / "runs" / run.key / "model")
    JournalWriter(mirror.root / "runs" / run.key / "journal.jsonl").close()
    (mirror.root / "runs" / run.key / "samples.jsonl").write_text("{}\n")
    assert mirror.send_run(run.key) == 1
    after = mirror.known(f"runs/{run.key}")
    assert after is not None
    assert set(after.files) == {*before.files, "samples.jsonl"}
    assert mirror.lacks(after) == []
    found = bring_run(mirror, run.key)  # the model comes back
    assert (found and found.state, found and found.damage) == ("finished", None)
    assert (mirror.root / "runs" / run.key / "model" / "model.safetensors").exists()


def test_files_of_old_versions_go_once_nobody_is_led_to_them(
    mirror: OutputMirror, run: PlannedRun
) -> None:
    mirror.send_run(run.key)
    old = object_of(mirror, run.key, "environment.json")
    checkpoint = Path(mirror.files.root) / "runs" / run.key / "attempt-1" / "manifest-00000.json"
    checkpoint.parent.mkdir()
    checkpoint.touch()  # of a store of checkpoints at the same address
    (mirror.root / "runs" / run.key / "environment.json").write_text("{}")
    assert mirror.send_run(run.key) == 1
    assert not old.exists()
    mirror.discard(f"runs/{run.key}", mirror.known(f"runs/{run.key}"))
    assert list(mirror.files.sizes(f"runs/{run.key}")) == ["attempt-1/manifest-00000.json"]
    assert mirror.known(f"runs/{run.key}") is None


def test_a_damaged_model_is_not_copied(mirror: OutputMirror, run: PlannedRun) -> None:
    weights = mirror.root / "runs" / run.key / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StorageError, match="is not what its checksum says, so that it is not"):
        mirror.send_run(run.key)
    assert mirror.known(f"runs/{run.key}") is None


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("s3://user:secret@bucket/x", "holds credentials"),
        ("s3://bucket/x?access_key=abc", "holds credentials"),
        ("s3://", "names no bucket"),
        ("s3://bucket/../other", "leads out of the bucket"),
        ("htp://bucket/x", "cannot be opened"),
        ("/work/env:BUCKET", "would be a folder of this machine"),
        ("/work/s3:/bucket", "would be a folder of this machine"),
        ("{output}", "is the output folder"),
        ("{output}/mirror", "is the output folder"),
        ("{output}/..", "is the output folder"),
        ("file://{output}", "is the output folder"),
    ],
)
def test_what_can_be_no_mirror_is_refused(study: StudySpec, address: str, problem: str) -> None:
    address = address.format(output=study.output)
    wrong = study.model_copy(update={"output_mirror": address})
    with pytest.raises(SpecError, match=problem) as caught:
        mirror_of(wrong)
    assert str(caught.value).startswith("output_mirror=")
    assert "secret" not in str(caught.value)
    if problem not in ("cannot be opened",) and not address.startswith("file:"):
        with pytest.raises(SpecError, match=problem):
            check_mirror_address(wrong)


def test_a_study_without_a_mirror_is_written_as_before(study: StudySpec) -> None:
    plain = study.model_copy(update={"output_mirror": None})
    assert "output_mirror" not in plain.to_yaml()
    assert "output_mirror" in study.to_yaml()
    assert [run.key for run in plan_study(plain)] == [run.key for run in plan_study(study)]
    assert mirror_of(plain) is None
