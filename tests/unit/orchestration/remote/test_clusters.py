"""Clusters by name: which file counts, and what a description may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.errors import SpecError
from orchestration.cli.destinations import RayDestination, SlurmDestination, destination
from orchestration.cluster.token_file import token_of
from orchestration.remote.clusters import ClusterSpec, known_clusters, read_cluster

RIG = "{kind: slurm, shared: /shared, partition: gpu}"


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file with the cluster `rig`, and a folder without one to call from."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(tmp_path / "config" / "cola", f"rig: {RIG}\n  ours: {{kind: ray, address: 'http://h:1'}}")
    return tmp_path


def write(folder: Path, clusters: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clusters.yaml").write_text(f"clusters:\n  {clusters}\n")
    return folder / "clusters.yaml"


def test_a_file_beside_the_study_comes_before_the_users(described: Path) -> None:
    assert read_cluster("rig").partition == "gpu"
    project = described / "project"
    write(project, "rig: {kind: slurm, shared: /shared, partition: long}")
    (project / "study.yaml").write_text("name: x\n")
    study = str(project / "study.yaml")
    assert read_cluster("rig", study).partition == "long"
    assert read_cluster("ours", study).kind == "ray"
    assert {name: path.parent.name for name, (_, path) in known_clusters(study).items()} == {
        "rig": "project",
        "ours": "cola",
    }


def test_an_unknown_cluster_is_named_with_the_known_ones(
    described: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match=r"--cluster rg: unknown; did you mean rig\? .*: ours, rig"):
        read_cluster("rg")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(described / "empty"))
    with pytest.raises(SpecError, match=r"no cluster is described; write it into .*clusters\.yaml"):
        read_cluster("rig")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"kind": "slurm"}, "shared is required for kind: slurm"),
        ({"kind": "ray"}, "address is required for kind: ray"),
        ({"kind": "ray", "address": "http://h:1", "partition": "gpu"}, "partition is a key of"),
        ({"kind": "kuberay", "shared": "/x"}, "shared is a key of kind: slurm"),
        ({"kind": "pbs"}, "kind"),
        ({"kind": "slurm", "shared": "shared"}, "shared"),
        ({"kind": "slurm", "shared": "/s", "grace_seconds": 0}, "grace_seconds"),
        ({"kind": "slurm", "shared": "/s", "partion": "gpu"}, "partion"),
        ({"kind": "slurm", "shared": "/s", "qos": "a b"}, "qos"),
        ({"kind": "ray", "address": "http://h:1", "token": "secret"}, "token"),
    ],
)
def test_a_description_that_cannot_be_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        ClusterSpec.parse(values)


def test_a_command_speaks_to_one_cluster(described: Path) -> None:
    assert isinstance(destination(None, "rig"), SlurmDestination)
    to = destination(None, "ours")
    assert isinstance(to, RayDestination)
    assert to.endpoint.address == "http://h:1"
    for address, cluster in ((None, None), ("http://h:1", "rig")):
        with pytest.raises(SpecError, match=r"--address, --cluster: give one of them"):
            destination(address, cluster)
    write(described / "here", "k: {kind: kuberay}")
    with pytest.raises(SpecError, match=r"--cluster k: is a kuberay; .*kubectl apply"):
        destination(None, "k")


def test_a_token_is_where_the_description_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("RIG_TOKEN", "other")
    assert token_of(f"file:{tmp_path}/token") == "secret"
    assert token_of("env:RIG_TOKEN") == "other"
    monkeypatch.setenv("RIG_TOKEN", " ")
    with pytest.raises(SpecError, match="token=env:RIG_TOKEN: is empty"):
        token_of("env:RIG_TOKEN")
    with pytest.raises(SpecError, match=r"token=file:/absent: cannot be read"):
        token_of("file:/absent")
