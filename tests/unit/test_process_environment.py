"""Environment variables of each kind of process: whose value wins, and that no order matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cola import process_environment

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable that another test's imports have left."""
    monkeypatch.setattr(process_environment, "_own", {})
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in (RETRIES, "RAY_AUTH_MODE", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "RANK"):
        os.environ.pop(name, None)


def test_a_process_that_writes_and_then_reads_has_the_readers_retries() -> None:
    process_environment.mlflow_writer()
    assert os.environ[RETRIES] == "0"
    process_environment.mlflow_reader()
    assert os.environ[RETRIES] == "2"
    process_environment.mlflow_writer()
    assert os.environ[RETRIES] == "0"


def test_a_value_from_outside_is_kept() -> None:
    os.environ[RETRIES] = "7"
    process_environment.mlflow_writer()
    process_environment.mlflow_reader()
    assert os.environ[RETRIES] == "7"
    os.environ["RAY_AUTH_MODE"] = "token"
    assert not process_environment.job_client(has_token=False)
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_compiled_code_has_a_folder_of_the_users_own(tmp_path: Path) -> None:
    variable = "TORCHINDUCTOR_CACHE_DIR"
    os.environ.pop(variable, None)
    shared, own, link = tmp_path / "shared", tmp_path / "own", tmp_path / "link"
    shared.mkdir()
    shared.chmod(0o777)
    link.symlink_to(own)
    for refused in (shared, link, tmp_path / "no" / "parent"):
        process_environment.compiling_worker(refused)
        assert variable not in os.environ, refused
    process_environment.compiling_worker(own)
    assert os.environ[variable] == str(own)
    assert own.stat().st_mode & 0o777 == 0o700
    os.environ[variable] = "/elsewhere"
    process_environment.compiling_worker(own)
    assert os.environ[variable] == "/elsewhere"


def test_what_holds_for_a_private_cluster_ends_with_it() -> None:
    before = dict(os.environ)
    with process_environment.private_cluster():
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
        assert os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "0"
    assert dict(os.environ) == before
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "1"
    with process_environment.private_cluster():
        assert os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "1"


def test_a_single_worker_leaves_the_environment_as_it_was() -> None:
    os.environ["WORLD_SIZE"] = "3"
    before = dict(os.environ)
    with process_environment.single_worker():
        assert (os.environ["WORLD_SIZE"], os.environ["RANK"]) == ("1", "0")
    assert dict(os.environ) == before


def test_the_servers_database_is_in_its_environment_alone() -> None:
    before = dict(os.environ)
    given = process_environment.mlflow_server("postgresql://me:s3cret@host/db")
    assert given["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:s3cret@host/db"
    assert before.items() <= given.items()
    assert dict(os.environ) == before


ORDERS = {
    "mlflow": (
        "import mlflow.environment_variables",
        "process_environment.mlflow_writer()",
        "from mlflow import environment_variables as e; "
        "print(e.MLFLOW_HTTP_REQUEST_TIMEOUT.get(), e.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())",
        "30 0",
    ),
    "huggingface_hub": (
        "import huggingface_hub.utils",
        "process_environment.command()",
        "from huggingface_hub.utils import are_progress_bars_disabled as off; print(off())",
        "True",
    ),
    "ray": (
        "import ray.train",
        "process_environment.ray_driver()",
        "import ray.train; print(ray.train.UserCallback.__name__)",
        "UserCallback",
    ),
    "tune": (
        "import ray.tune",
        "process_environment.tune_driver()",
        "from ray.tune.experimental.output import get_air_verbosity as v; print(v(0))",
        "None",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("library", ORDERS)
@pytest.mark.parametrize("imported_first", [True, False])
def test_the_order_of_imports_changes_nothing(library: str, imported_first: bool) -> None:
    """In interpreters of their own, without what this process has imported and set."""
    imported, given, look, expected = ORDERS[library]
    first, second = (imported, given) if imported_first else (given, imported)
    code = "\n".join(["from cola import process_environment", first, second, look])
    free = ("MLFLOW_", "HF_HUB_DISABLE", "RAY_", "TUNE_")
    variables = {name: v for name, v in os.environ.items() if not name.startswith(free)}
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables
    )
    assert shown.stdout.strip() == expected
