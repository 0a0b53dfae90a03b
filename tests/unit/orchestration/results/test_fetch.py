"""What is fetched from a cluster is what is there, and opens like a local study."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cola.errors import SpecError, StorageError
from cola.files import sha256_of
from cola.study import StudySpec
from orchestration.cleanup.contents import Thing
from orchestration.cli.things import name_and_output
from orchestration.planning.plan import plan_study
from orchestration.results.fetch import check_target, fetch
from orchestration.results.local_copy import rewritten
from orchestration.results.sources import Origin, SharedFolder, open_source
from orchestration.state.journal import JournalWriter
from orchestration.state.ledger import Ledger
from sweeps.cli import app

TINY = Thing("study", "tiny")


def cola(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def origin_of(study: StudySpec, **changes: str | None) -> Origin:
    values = {
        "output": study.output, "tracking": None, "storage": None,
        "digest": study.content_hash(), **changes,
    }  # fmt: skip
    return Origin(TINY, "--cluster ours", **values)  # type: ignore[arg-type]


def files_below(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in found}


@pytest.mark.usefixtures("shared")
def test_a_second_fetch_copies_what_differs_alone(study: StudySpec, tmp_path: Path) -> None:
    there, here, origin = Path(study.output), tmp_path / "mine", origin_of(study)
    source = open_source(origin)
    assert source == SharedFolder(there, TINY)
    first = fetch(source, here, origin, models=False)
    (run,) = plan_study(study)
    folder = f"runs/{run.key}"
    assert set(first.copied) == {
        *(f"{folder}/{name}" for name in ("spec.json", "data.json", "ledger.json", "journal.jsonl",
                                          "outcome.json", "environment.json")),
        *(f"studies/tiny/{name}" for name in ("study.yaml", "plan.json", "events.jsonl")),
    }  # fmt: skip
    assert first.states == {"finished": 1}
    again = fetch(source, here, origin, models=False)
    assert (again.copied, set(again.unchanged)) == ([], set(first.copied))
    # One file is damaged here, another one grows there.
    (here / folder / "spec.json").write_text("{")
    with JournalWriter(there / folder / "journal.jsonl")._lines as lines:
        lines.write({"kind": "event", "step": 9, "time": 0.0, "values": {}})
    third = fetch(source, here, origin, models=True)
    assert set(third.copied) - {n for n in third.copied if "/model/" in n} == {
        f"{folder}/spec.json", f"{folder}/journal.jsonl",
    }  # fmt: skip
    wanted, found = files_below(there / folder), files_below(here / folder)
    found.pop("fetched.json")
    wanted.pop("ledger.lock")
    assert found == wanted
    spec = StudySpec.parse(yaml.safe_load((here / "studies/tiny/study.yaml").read_text()))
    assert spec == study.model_copy(update={"output": str(here)})


def test_a_copy_reaches_nothing_of_the_cluster(study: StudySpec, tmp_path: Path) -> None:
    values = study.model_dump(mode="json")
    values["checkpoint"]["storage"] = "s3://bucket/prefix"
    values["tracking"]["uri"] = "sqlite:////shared/outputs/mlflow.db"
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    copy = StudySpec.parse(yaml.safe_load(rewritten(path, tmp_path / "mine", TINY)))
    assert (copy.checkpoint.storage, copy.tracking.uri) == (None, None)
    assert copy == study.model_copy(update={"output": str(tmp_path / "mine")})
    values["tracking"]["uri"] = "https://mlflow.example"
    path.write_text(yaml.safe_dump(values))
    copy = StudySpec.parse(yaml.safe_load(rewritten(path, tmp_path / "mine", TINY)))
    assert copy.tracking.uri == "https://mlflow.example"


@pytest.mark.usefixtures("shared")
def test_a_damaged_model_is_not_fetched(study: StudySpec, tmp_path: Path) -> None:
    origin = origin_of(study)
    (run,) = plan_study(study)
    weights = Path(study.output) / "runs" / run.key / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StorageError, match=r"model\.safetensors is not what its checksum says"):
        fetch(open_source(origin), tmp_path / "mine", origin, models=True)
    assert not list((tmp_path / "mine").rglob("*.safetensors"))


@pytest.mark.usefixtures("shared")
def test_what_a_folder_trained_itself_is_left_alone(study: StudySpec, tmp_path: Path) -> None:
    here, origin = tmp_path / "mine", origin_of(study)
    (run,) = plan_study(study)
    own = Ledger(here)
    own.acquire(run.key)
    own.close(run.key, "interrupted")
    before = files_below(here)
    result = fetch(open_source(origin), here, origin, models=True)
    assert result.kept == {run.key: "interrupted"}
    found = files_below(here)
    assert {name: found[name] for name in before} == before
    assert {name for name in found if name.startswith("runs/")} == set(before)
    # A study of its own, and one of another cluster.
    other = tmp_path / "other"
    shutil.copytree(study.output, other)
    for target, elsewhere in ((other, origin), (here, origin_of(study, output="/elsewhere"))):
        with pytest.raises(SpecError, match="give another folder"):
            check_target(target, elsewhere)
    # The same study by another address of its cluster is the same.
    check_target(here, replace(origin, cluster="--address http://127.0.0.1:1"))
    with pytest.raises(SpecError, match="give another folder"):
        check_target(here, replace(origin, cluster="--cluster other", digest=None))
    assert not (other / "studies/tiny/fetched.json").exists()


@pytest.mark.usefixtures("shared")
def test_a_folder_of_the_same_path_with_another_study_is_not_the_cluster_s(
    study: StudySpec,
) -> None:
    changed = study.model_copy(update={"seeds": [study.seeds[0] + 1]})
    with pytest.raises(SpecError, match=r"on this machine holds another version of study tiny"):
        open_source(origin_of(study, digest=changed.content_hash()))


def test_what_cannot_be_reached_is_said_way_by_way(study: StudySpec) -> None:
    with pytest.raises(SpecError) as refusal:
        open_source(origin_of(study, output="/elsewhere", tracking="sqlite:////elsewhere/x.db"))
    assert str(refusal.value).startswith(
        "--cluster ours: no way from here to the results of tiny: /elsewhere is no folder that "
        "this machine sees; its output has no mirror; its checkpoints are in no object store; it "
        "has no tracking server. "
    )
    with pytest.raises(SpecError, match="env:NOWHERE: the environment variable"):
        open_source(origin_of(study, output="/elsewhere", tracking="env:NOWHERE"))
    with pytest.raises(SpecError, match="MLflow cannot be reached"):
        open_source(origin_of(study, output="/elsewhere", tracking="http://127.0.0.1:9"))


@pytest.mark.parametrize("name", ["", "..", "a/b", "../tiny", "/tiny"])
def test_only_names_are_taken_for_names(name: str) -> None:
    with pytest.raises(SpecError, match="is neither a file nor the name"):
        name_and_output(name)


@pytest.mark.slow(seconds=10)
@pytest.mark.usefixtures("shared")
def test_a_fetched_study_opens_like_a_local_one(study: StudySpec, tmp_path: Path) -> None:
    """Without its corpus, and without the folder that it was fetched from."""
    shown = cola("fetch", "tiny", "--cluster", "ours", "--models")
    assert "15 files copied" in shown
    assert "runs: 1 finished" in shown
    again = json.loads(cola("fetch", "tiny", "--cluster", "ours", "--json"))
    assert (again["copied_files"], again["runs"], again["notes"]) == (0, {"finished": 1}, [])
    Path(study.output).rename(tmp_path / "gone")
    spec = tmp_path / "here" / "outputs" / "studies" / "tiny" / "study.yaml"
    values = yaml.safe_load(spec.read_text())
    values["data"]["corpus"]["paths"] = ["/no/such/corpus.txt"]
    spec.write_text(yaml.safe_dump(values))
    (run,) = json.loads(cola("status", str(spec), "--json"))["runs"]
    assert (run["state"], run["reason"]) == ("finished", None)
    assert "report.html" in cola("report", "tiny")
    name = f"tiny/{run['run']}"
    cola("generate", name, "--prompt", "The river", "--max-new-tokens", "4")
