"""Clusters by name: which file counts, and what a description may hold."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.cli.destinations import RayDestination, SlurmDestination, destination
from orchestration.cluster.token_file import token_of
from orchestration.planning.catalog import load_study
from orchestration.recipes import slurm
from orchestration.remote.clusters import ClusterSpec, known_clusters, read_cluster
from orchestration.remote.submission import study_submission

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
        ({"kind": "slurm", "shared": "/s", "allocations": 0}, "allocations"),
        ({"kind": "kuberay", "allocations": 2}, "allocations is a key of kind: slurm"),
        ({"kind": "slurm", "shared": "/s", "ssh": "-oProxyCommand=touch x"}, "ssh"),
        ({"kind": "slurm", "shared": "/s", "ssh": "a b"}, "ssh"),
        ({"kind": "slurm", "shared": "/s", "ssh_config": "/c"}, "ssh_config is of no use without"),
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


def test_the_only_cluster_needs_no_name(
    described: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(described / "config" / "cola", f"rig: {RIG}\n  k: {{kind: kuberay}}")
    assert isinstance(destination(None, None), SlurmDestination)
    assert capsys.readouterr().err == f"cluster rig, the only one in {file}\n"
    assert isinstance(destination("http://h:1", None), RayDestination)
    file.write_text("clusters:\n  k: {kind: kuberay}\n")
    with pytest.raises(SpecError, match=r"--address, --cluster: give one of them"):
        destination(None, None)


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


def allocations_of(study: StudySpec, wanted: int, **more: Any) -> tuple[int, list[str], str]:
    """Jobs, notes and the script of a study on a cluster, by the command line."""
    cluster = ClusterSpec.parse({"kind": "slurm", "shared": "/", "cpus_per_node": 8, **more})
    to, work = SlurmDestination(cluster, wanted), study_submission(study)
    request, jobs = to.request(work)
    return jobs, list(to.notes(work)), slurm.text(request)


def test_a_study_is_shared_out_among_its_jobs(tiny_study: dict[str, Any]) -> None:
    """No more jobs than runs; a limit on runs at a time is the study's, not each job's."""
    study = StudySpec.parse(tiny_study | {"families": {"ar": {}}, "seeds": [0, 1, 2]})
    jobs, notes, script = allocations_of(study, 2)
    assert (jobs, notes) == (2, [])
    assert "singleton" not in script
    assert "sbatch, 2 times" in script
    jobs, (note,), _ = allocations_of(study, 8)
    assert (jobs, note) == (3, "3 of 8 jobs: the study has 3 runs")
    assert "--dependency=singleton" in allocations_of(study, 1)[2]
    limited = {"resources": {"concurrent_runs": 2}}
    study = StudySpec.parse(tiny_study | limited | {"families": {"ar": {}}, "seeds": [0, 1, 2]})
    assert "#SBATCH --nodes=1-2\n" in allocations_of(study, 1)[2]
    script = allocations_of(study, 2)[2]
    assert "#SBATCH --nodes=1\n" in script
    assert "concurrent_runs: 1" in script
    assert "#SBATCH --nodes=1\n" in allocations_of(study, 2, nodes=4)[2], "not all that there are"
    assert "#SBATCH --nodes=1-4\n" in allocations_of(study, 1, nodes=4)[2]
    described = ClusterSpec.parse({"kind": "slurm", "shared": "/", "allocations": 8})
    (note,) = SlurmDestination(described).notes(study_submission(study))
    assert note == "2 of 8 jobs: resources.concurrent_runs=2"
    with pytest.raises(SpecError, match=r"--allocations 3: resources.concurrent_runs=2 lets fewer"):
        allocations_of(study, 3)


def test_runs_that_one_job_cannot_finish_are_named_with_their_starts() -> None:
    """64 H100 by the plan: the largest of the paper's runs against jobs of two hours."""
    study = load_study("paper-2b", ["output=/shared/outputs"])
    hours = {name: s / 3600 for name, s in study_submission(study).run_seconds().items()}
    name, most = max(hours.items(), key=lambda item: item[1])
    nodes = {"gpus_per_node": 8, "cpus_per_node": 96}
    left = 2 - (600 + 30 + 120) / 3600
    _, notes, _ = allocations_of(study, 1, time="2:00:00", **nodes)
    assert {note.partition(":")[0] for note in notes} == {n for n, h in hours.items() if h > left}
    assert any(
        note.startswith(f"{name}: {most:.3g} hours by the plan, and a job trains for {left:.3g} at")
        and note.endswith(f"about {math.ceil(most / left)} in all")
        for note in notes
    )
    assert allocations_of(study, 1, time="UNLIMITED", **nodes)[1] == []


@pytest.mark.parametrize(("grace", "hours"), [(60, 1), (3000, 1), (3449, 2), (40_000, 12)])
def test_a_planned_limit_leaves_time_to_train(
    grace: int, hours: int, tiny_study: dict[str, Any]
) -> None:
    """30 s are kept for the teardown, and 120 s for the start and an early warning."""
    study = StudySpec.parse(tiny_study)
    _, notes, script = allocations_of(study, 1, grace_seconds=grace)
    assert f"#SBATCH --time={hours}:00:00" in script
    assert notes == []


def test_a_grace_longer_than_any_job_is_refused(tiny_study: dict[str, Any]) -> None:
    study = StudySpec.parse(tiny_study)
    with pytest.raises(SpecError, match=r"--time=48:00:00: a limit of 172800 s leaves no time"):
        allocations_of(study, 1, grace_seconds=172_800)


def test_a_sweep_is_one_job(tiny_study: dict[str, Any]) -> None:
    """Asked for on the command line it is refused; a cluster's own number is for studies."""
    work = replace(study_submission(StudySpec.parse(tiny_study)), kind="sweep")
    cluster = ClusterSpec.parse({"kind": "slurm", "shared": "/", "allocations": 4})
    with pytest.raises(SpecError, match=r"--allocations 2: is for studies, and tiny is a sweep"):
        SlurmDestination(cluster, 2).request(work)
    to = SlurmDestination(cluster)
    assert to.request(work)[1] == 1
    assert to.notes(work) == ["1 of 4 jobs: one driver proposes all trials of a sweep"]


def test_allocations_are_slurms(described: Path) -> None:
    found = destination(None, "rig", allocations=3)
    assert isinstance(found, SlurmDestination)
    assert found.allocations == 3
    with pytest.raises(SpecError, match="--allocations 0: ask for at least one job"):
        destination(None, "rig", allocations=0)
    for address, cluster in ((None, "ours"), ("http://h:1", None)):
        with pytest.raises(
            SpecError, match=r"--allocations 2: asks for jobs of Slurm, and --.*leave"
        ):
            destination(address, cluster, allocations=2)
