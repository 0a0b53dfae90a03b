"""Checkpoints and results in an object store: what is refused, and what comes back from there. That
no checkpoint is lost there: the drill."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cola.checksums import damage_in
from cola.data import PreparedData
from cola.errors import SpecError, StorageError
from cola.files import sha256_of
from cola.study import StudySpec
from orchestration.checkpoint.store import check_storage, open_store
from orchestration.cleanup.contents import Thing
from orchestration.driver.progress import StudyView
from orchestration.driver.study_runner import StudyResult, run_study
from orchestration.output_mirror.bring import bring_runs
from orchestration.output_mirror.mirror import mirror_of
from orchestration.output_mirror.run_mirror import RunMirror
from orchestration.output_mirror.stored import StoredFiles
from orchestration.results.fetch import fetch
from orchestration.results.publish import publish_to
from orchestration.results.sources import Origin, open_source
from orchestration.state.event_log import EventLog
from orchestration.state.paths import RunFolder, study_folder
from tests.finished import finished_study
from tests.servers import s3_bucket

pytestmark = pytest.mark.slow(seconds=60)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_bucket(monkeypatch) as address:
        yield address


def test_a_bucket_that_is_not_there_is_refused_before_anything_starts(bucket: str) -> None:
    check_storage(bucket)
    assert open_store(bucket, Path("key")).stored() == []
    with pytest.raises(StorageError, match="cannot be written") as caught:
        check_storage(bucket.replace("s3://bucket", "s3://other"))
    assert "checkpoint.storage=s3://other/prefix: " in str(caught.value)
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)


def test_a_key_that_leads_outside_is_not_fetched(bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket, Path("key"))
    folder = store.path("attempt-1/step-000000001")
    for name in ("kept", "../../../../outside"):
        with store.filesystem.open_output_stream(f"{folder}/{name}") as file:
            file.write(b"x")
    store.fetch("attempt-1/step-000000001", tmp_path / "a" / "b" / "c" / "d")
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert found == [tmp_path / "a" / "b" / "c" / "d" / "kept"]


def test_results_come_back_whole(
    bucket: str, tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    study = StudySpec.parse(tiny_study | {"families": ["ar"]})
    (run,), there, here = finished_study(study, data), Path(study.output), tmp_path / "here"
    tiny = Thing("study", "tiny")
    shelf = StoredFiles.of(bucket, tiny)
    origin = Origin(
        tiny, "--cluster ours", "/elsewhere", study.content_hash(), tracking=None, storage=bucket
    )
    with pytest.raises(SpecError, match="s3://bucket/prefix holds no results of it"):
        open_source(origin)
    assert publish_to(shelf, there, tiny, models=True) == 15
    assert publish_to(shelf, there, tiny, models=True) == 0
    result = fetch(open_source(origin), here, origin, models=True)
    assert (len(result.copied), result.states) == (15, {"finished": 1})
    assert damage_in(RunFolder(here / "runs" / run.key).model) is None
    # Whoever can write to the bucket cannot have other places written to.
    listed = shelf.read("results.json", tmp_path)
    assert listed is not None
    listed.write_text(listed.read_text().replace("studies/tiny/plan.json", "studies/../x"))
    shelf.write(listed, "results.json")
    with pytest.raises(SpecError, match=r"names studies/\.\./x, which is no result of tiny"):
        open_source(origin)


@pytest.mark.ray
@pytest.mark.deepspeed
def test_an_output_that_is_lost_comes_back_from_its_mirror(
    bucket: str, tiny_study: dict[str, Any], data: PreparedData
) -> None:
    """Nothing is trained again, but for one run of two that is damaged there."""
    mirrored = {"families": ["ar"], "seeds": [1, 2], "output_mirror": bucket}
    study = StudySpec.parse(tiny_study | mirrored)
    root = Path(study.output)
    first, second = finished_study(study, data)

    def run() -> tuple[StudyResult, str]:
        console = Console(file=io.StringIO(), width=400)
        result = run_study(study, None, StudyView(console))
        return result, console.file.getvalue()  # type: ignore[attr-defined]

    def models() -> dict[str, str]:
        found = (root / "runs").glob("*/model/model.safetensors")
        return {path.parents[1].name: sha256_of(path) for path in found}

    before, mirror = models(), mirror_of(study)
    assert mirror is not None
    tiny = Thing("study", "tiny")
    copies = RunMirror(mirror, tiny, EventLog(study_folder(study)), notify=print)
    assert copies.finish([(first.name, first.key), (second.name, second.key)]) == []
    shutil.rmtree(root)
    result, shown = run()
    assert (result.trained, result.unsent, models()) == (0, [], before)
    assert shown.count("finished already, with the same specification; from the mirror") == 2
    # One object there is damaged: its run is trained, the other one is not.
    name = next(n for n in mirror.files.sizes(f"runs/{first.key}") if n.startswith("journal"))
    mirror.files.write_text("{}", f"runs/{first.key}/{name}")
    shutil.rmtree(root)
    result, shown = run()
    assert (result.trained, result.complete, result.unsent) == (1, True, [])
    damage = f"is damaged in the mirror, and not taken from it: runs/{first.key}/{name} is not what"
    assert f"{first.name}: {damage} its checksum says" in shown
    after = models()
    assert after[second.key] == before[second.key]
    assert after[first.key] != before[first.key]  # the first was never trained
    # What came of it is whole there.
    shutil.rmtree(root)
    found = bring_runs(mirror, [first.key, second.key])
    assert [(each.state, each.damage) for each in found] == [("finished", None)] * 2
    assert models() == after
