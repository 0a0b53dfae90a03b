"""The doctor finds what is wrong and says what to do; the MLflow server listens on loopback."""

from __future__ import annotations

import importlib.metadata
import socket
from pathlib import Path
from typing import Any

import pytest

from cola import process_environment
from cola.errors import ColaError
from cola.spec.address import with_driver
from cola.spec.resources import ResourcesSpec
from cola.study import StudySpec
from orchestration.doctor import storage_checks as doctor_storage
from orchestration.doctor.cluster_checks import cluster, nodes, room, version
from orchestration.doctor.local_checks import (
    enough_devices,
    examine,
    packages,
    plan,
    resources_of,
    tracking,
)
from orchestration.doctor.network_checks import all_reduce, sockets
from orchestration.doctor.storage_checks import clock, locks, renames, storage
from orchestration.remote.endpoint import Endpoint
from orchestration.tracking.mlflow_server import (
    backend,
    free_port,
    serve,
    server_command,
)


def test_this_environment_can_run_a_study(tiny_study: dict[str, Any]) -> None:
    found = {finding.name: finding for finding in examine(StudySpec.parse(tiny_study))}
    wanted = {"python", "packages", "collectives", "sockets", "storage", "locks", "renames"}
    assert wanted | {"clock", "plan", "devices", "tracking"} <= set(found)
    assert all(finding.verdict != "fail" for finding in found.values()), found
    assert all(finding.remedy for finding in found.values() if finding.verdict != "ok")


def test_what_is_wrong_is_found(tmp_path: Path, tiny_study: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")
    absent = tmp_path / "file" / "outputs"
    assert storage(absent).verdict == "fail"
    assert [check(absent).verdict for check in (locks, renames, clock)] == ["fail", "fail", "warn"]
    assert [check(tmp_path).verdict for check in (locks, renames, clock)] == ["ok"] * 3
    silent = tracking(f"http://127.0.0.1:{free_port(0)}")
    assert (silent.verdict, "cannot be reached" in silent.detail) == ("fail", True)
    unset = tracking("env:COLA_NOT_SET")
    assert (unset.verdict, "is not set" in unset.detail) == ("fail", True)
    large = StudySpec.parse(tiny_study | {"resources": {"workers": 8, "cpus_per_worker": 64}})
    devices = enough_devices(resources_of(large))
    assert (devices.verdict, "cola submit" in devices.remedy) == ("warn", True)
    corpus = {"source": "files", "paths": [str(tmp_path / "absent.txt")]}
    without = StudySpec.parse(tiny_study | {"data": tiny_study["data"] | {"corpus": corpus}})
    assert (plan(without).verdict, "absent.txt" in plan(without).detail) == ("fail", True)


def test_the_remedy_installs_what_is_not_as_required(monkeypatch: pytest.MonkeyPatch) -> None:
    required = [
        "pyyaml>=99",
        "absent[all]>=1,<2; python_version > '3'",
        "numpy",
        "no; extra == 'x'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: required)
    found, version = packages(), importlib.metadata.version("pyyaml")
    assert found.detail == f"pyyaml {version} (needs >=99), absent is missing"
    assert found.remedy == "pip install 'pyyaml>=99' 'absent[all]<2,>=1'"


def test_storage_whose_locks_do_not_hold_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network mount without locks: each process takes the lock, and gets it."""
    monkeypatch.setattr(doctor_storage.fcntl, "flock", lambda file, how: None)
    finding = locks(tmp_path)
    assert (finding.verdict, finding.detail) == ("fail", "two processes hold one lock")
    assert "flock" in finding.remedy


@pytest.mark.slow
def test_a_collective_that_fails_is_reported(tmp_path: Path) -> None:
    failure = all_reduce("nothing", 1, tmp_path / "meet")
    assert failure is not None
    assert "nothing" in failure


def test_a_temporary_folder_without_room_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sockets().verdict == "ok"
    monkeypatch.setattr("tempfile.tempdir", "/tmp/" + "x" * 120)
    finding = sockets()
    assert finding.verdict == "warn"
    assert "of at most 107 characters; Ray uses /tmp" in finding.detail


def node(state: str = "ALIVE", gpus: float = 0.0, **labels: str) -> dict[str, Any]:
    return {"state": state, "resources_total": {"CPU": 8.0, "GPU": gpus}, "labels": labels}


def test_a_clusters_nodes_are_counted_by_what_they_hold() -> None:
    found = [node(), node(gpus=4.0, pool="large"), node("DEAD", gpus=8.0)]
    assert nodes(found).detail == "2 alive with 16 CPUs and 4 GPUs, 1 gone"
    assert nodes([node("DEAD")]).verdict == "fail"
    # A node holds whole workers: 16 CPUs on two nodes are two workers of 5, not three.
    assert room(found, [ResourcesSpec(workers=2, cpus_per_worker=5)]).verdict == "ok"
    assert room(found, [ResourcesSpec(workers=3, cpus_per_worker=5)]).verdict == "warn"
    elastic = ResourcesSpec(workers=3, min_workers=2, cpus_per_worker=5)
    assert room(found, [elastic]).verdict == "ok"
    large = ResourcesSpec(workers=4, gpus_per_worker=1, labels={"pool": "large"})
    assert room(found, [ResourcesSpec(), large]).verdict == "ok"
    other = large.model_copy(update={"labels": {"pool": "other"}})
    missing = room(found, [ResourcesSpec(), other])
    assert (missing.verdict, "hold 0" in missing.detail) == ("warn", True)
    assert [version("2.60.0", "2.60.0").verdict, version("2.50.0", "2.60.0").verdict] == [
        "ok",
        "warn",
    ]


def test_a_cluster_that_is_not_there_is_found() -> None:
    (finding,) = cluster(Endpoint(f"http://127.0.0.1:{free_port(0)}"), [])
    assert (finding.name, finding.verdict) == ("cluster", "fail")
    assert "does not answer" in finding.detail
    assert finding.remedy


def test_a_port_is_taken_or_free(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(ColaError, match="is taken"):
            free_port(held.getsockname()[1])
    with pytest.raises(ColaError, match=r"holds no mlflow\.db"):
        serve(tmp_path, 0, print)


def test_only_a_database_is_served_and_no_password_is_on_a_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ColaError, match="holds a password") as refusal:
        serve(tmp_path, 0, print, store="postgresql://me:s3cret@host/db")
    assert "s3cret" not in str(refusal.value)
    with pytest.raises(ColaError, match="is not a database"):
        serve(tmp_path, 0, print, store="http://127.0.0.1:5000")
    monkeypatch.setenv("COLA_STORE", "postgresql://me:s3cret@host/db")
    address = backend(tmp_path, "env:COLA_STORE")
    assert address.shown == "env:COLA_STORE"
    assert not any("s3cret" in part for part in server_command(tmp_path, 5000))
    environment = process_environment.mlflow_server(with_driver(address.uri))
    passed = environment["MLFLOW_BACKEND_STORE_URI"]
    assert passed == "postgresql+psycopg2://me:s3cret@host/db"
