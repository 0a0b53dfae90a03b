"""Sources for a cluster's jobs: sent once by digest, and not where the environment has the same."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from cola.errors import SpecError, StorageError
from cola.spec.data import LocalFiles
from cola.study import StudySpec
from orchestration.cli.destinations import SlurmDestination
from orchestration.cli.jobs import resume, submit
from orchestration.planning.plan import plan_study
from orchestration.recipes.files import sent, with_files_sent
from orchestration.recipes.sources import (
    archive_of,
    digest_there,
    packed_sources,
    setup_with,
    sources_for,
    unpack,
    why_sent,
)
from orchestration.remote.clusters import ClusterSpec
from orchestration.remote.packaging import LARGEST_SOURCE, PACKAGES, pack_sources
from orchestration.remote.submission import study_submission
from orchestration.slurm.jobs import JobSite
from orchestration.slurm.machine import HERE
from tests.paths import ROOT

BIN = str(Path(sys.executable).parent)


def cluster(shared: Path, *setup: str, send: bool = True) -> ClusterSpec:
    values = {"kind": "slurm", "shared": str(shared), "setup": setup, "send_sources": send}
    return ClusterSpec.parse(values)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("packed")
    return folder, packed_sources(folder)


def test_they_lie_in_a_folder_of_their_digest_and_are_sent_once(
    tmp_path: Path, packed: tuple[Path, str]
) -> None:
    """An environment without `cola` gets them with a command of that name."""
    digest = packed[1]
    site, described = JobSite(str(tmp_path)), cluster(tmp_path, "PATH=/usr/bin:/bin")
    sent = sources_for(described, site)
    assert sent == f"{tmp_path}/cola-sources/{digest[:16]}"
    assert {path.name for path in Path(sent).iterdir()} == {*PACKAGES, "bin"}
    assert [path.name for path in Path(sent).parent.iterdir()] == [digest[:16]]
    assert (Path(sent, "cola/errors.py")).read_text() == (ROOT / "cola/errors.py").read_text()
    before = Path(sent).stat().st_mtime_ns
    assert sources_for(described, site) == sent
    assert Path(sent).stat().st_mtime_ns == before
    # A job's shell: the libraries are those of `setup`, the product the one that was sent.
    lines = setup_with(cluster(tmp_path, f"export PATH={BIN}:/usr/bin:/bin"), sent)
    look = "python3 -c 'import cola; print(cola.__file__)'; command -v cola"
    clean = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    script = "\n".join(["set -eu", *lines, look])
    shown = subprocess.run(
        ["bash", "-c", script], env=clean, cwd="/", capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert shown == [f"{sent}/cola/__init__.py", f"{BIN}/cola"]
    assert os.access(f"{sent}/bin/cola", os.X_OK)


def test_an_environment_with_the_same_sources_is_used_as_it_is(
    tmp_path: Path, packed: tuple[Path, str]
) -> None:
    """What a module system prints before is no digest."""
    cola = tmp_path / "bin" / "cola"
    cola.parent.mkdir()
    cola.write_text(f'#!/bin/sh\n[ "$*" = sources-digest ] && echo {packed[1]}\n')
    cola.chmod(0o755)
    setup = (f"export PATH={cola.parent}:$PATH", "echo Loading modules")
    assert sources_for(cluster(tmp_path, *setup), JobSite(str(tmp_path))) is None
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
    assert sources_for(cluster(tmp_path, send=False), JobSite(str(tmp_path))) is None
    assert setup_with(cluster(tmp_path, "a\nb"), None) == ["a", "b"]
    assert digest_there(HERE, ["exit 3"]) is None


def test_the_option_comes_before_the_description(tmp_path: Path) -> None:
    site, described = JobSite(str(tmp_path)), cluster(tmp_path)
    assert sources_for(described, site, "cluster") is None
    assert list(tmp_path.iterdir()) == []
    over_ssh = SlurmDestination(described.model_copy(update={"ssh": "login"}))
    assert [over_ssh.sends_files(each) for each in (None, "sources", "cluster")] == [
        True, True, False,
    ]  # fmt: skip
    assert why_sent(cluster(tmp_path, send=False), "sources") == "--environment sources"
    for command in (submit, resume):
        assert signature(command).parameters["environment"].default is None


def test_a_shared_folder_that_is_absent_is_not_made(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    shared = tmp_path / "absent"
    work = study_submission(StudySpec.parse(tiny_study | {"output": f"{shared}/outputs"}))
    with pytest.raises(SpecError, match=r"^shared=.*/absent: is no folder on this machine; name"):
        SlurmDestination(cluster(shared)).submit(work, None)
    assert not shared.exists()


def test_what_is_no_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cola").mkdir()
    (tmp_path / "cola/large.py").write_bytes(b"#" * (LARGEST_SOURCE + 1))
    with pytest.raises(SpecError, match=r"^send_sources: .*large\.py is a link or larger"):
        pack_sources(tmp_path, tmp_path / "to", ["cola"], why="send_sources")
    monkeypatch.setattr("cola.__file__", str(tmp_path / "cola/__init__.py"))
    site = JobSite(str(tmp_path))
    with pytest.raises(SpecError, match=r"^send_sources: .* or use send_sources: false in clust"):
        sources_for(cluster(tmp_path), site)
    with pytest.raises(SpecError, match=r"^--environment sources: .* use --environment cluster$"):
        sources_for(cluster(tmp_path), site, "sources")


def test_a_folder_that_takes_no_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "source.py").write_text("")
    archive = archive_of(tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StorageError, match=r"this machine:.*/file/x: cannot be written \(.*exists"):
        unpack(HERE, archive, file / "x")
    with pytest.raises(StorageError, match=r"cannot be written \(.*not in gzip format"):
        unpack(HERE, b"no archive", tmp_path / "place" / "x")
    assert list((tmp_path / "place").iterdir()) == []


def test_files_of_a_study_are_sent_by_their_content(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    """Its runs keep their identity, and what the cluster has of its own stays where it is."""
    shared, folder = tmp_path / "shared", tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    text = Path(tiny_study["data"]["corpus"]["paths"][0]).read_text()
    (folder / "more" / "b.txt").write_text(text)
    (folder / "a.txt").write_text("A text.")
    (tmp_path / "link").symlink_to(folder)
    (shared / "own").mkdir(parents=True)
    (shared / "own" / "c.txt").write_text("of the cluster")
    paths = [str(tmp_path / "link"), str(shared / "own")]
    corpus = {"source": "files", "paths": paths}
    study = StudySpec.parse(tiny_study | {
        "families": {"ar": {}}, "data": tiny_study["data"] | {"corpus": corpus},
        "output": str(shared / "outputs"),
    })  # fmt: skip
    site, work = JobSite(str(shared)), study_submission(study)
    there = with_files_sent(work, site)
    data = there.study.data.corpus
    assert isinstance(data, LocalFiles)
    place = Path(data.paths[0])
    assert (place.name, place.parents[1]) == ("link", shared / "cola-files")
    assert data.paths[1] == paths[1]
    assert there.study.output == study.output
    assert (place / "more" / "b.txt").read_text() == text
    assert f"- {place}\n" in there.specification
    assert [run.key for run in plan_study(there.study)] == [run.key for run in work.runs]
    assert with_files_sent(work, site).digest == there.digest
    (folder / "more" / "b.txt").write_text(text + "\n\nMore.")
    assert with_files_sent(work, site).digest != there.digest


def test_a_sweep_with_files_elsewhere_is_refused(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    study = StudySpec.parse(tiny_study | {"output": f"{shared}/outputs"})
    sweep = replace(study_submission(study), kind="sweep")
    with pytest.raises(
        SpecError, match=r"^data\.corpus\.paths\.0=.*: is not below .*/shared \(sha"
    ):
        with_files_sent(sweep, JobSite(str(shared)))
    everywhere = JobSite("/")
    assert with_files_sent(sweep, everywhere) is sweep


def test_a_corpus_that_is_too_large_to_be_sent_is_named(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(SpecError, match=r"^data\.corpus\.paths\.0=.*large\.bin: has 268\.4 MB"):
        sent("data.corpus.paths.0", path, JobSite(str(tmp_path)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(path)
    with pytest.raises(SpecError, match=r"has a link in it, .*/folder/link; send a folder without"):
        sent("data.corpus.paths.0", tmp_path / "folder", JobSite(str(tmp_path)))
    with pytest.raises(StorageError, match=r"absent: cannot be read \(No such file"):
        sent("data.tokenizer.path", tmp_path / "absent", JobSite(str(tmp_path)))
