"""A real MLflow server, a real PostgreSQL and an S3 server, each on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from cola import process_environment
from cola.spec.address import with_driver
from orchestration.checkpoint.store import CheckpointStore
from orchestration.tracking.mlflow_server import free_port, server_command
from tests.paths import POSTGRES

START_SECONDS = 180.0


def start_mlflow(store: str, folder: Path, port: int, workers: int = 1) -> subprocess.Popen[bytes]:
    """A server that answers, in a process group of its own."""
    process = subprocess.Popen(
        [*server_command(folder / "artifacts", port), "--workers", str(workers)],
        env=process_environment.mlflow_server(with_driver(store)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _until_healthy(process, port)
    except BaseException:
        kill(process)
        raise
    return process


def _until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            signal.sigtimedwait([], 0.2)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers at once, as a crash would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


@contextlib.contextmanager
def mlflow_server(store: str, folder: Path) -> Iterator[str]:
    """Its address."""
    port = free_port(0)
    process = start_mlflow(store, folder, port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        kill(process)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database, with its password, of a server that ends with this."""
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    port = free_port(0)
    (folder / "password").write_text("s3cret\n")
    if as_user:
        shutil.chown(folder, "postgres")
        shutil.chown(folder / "password", "postgres")

    def run(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, capture_output=True, cwd=folder)

    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    data = str(folder / "data")
    try:
        run(
            str(POSTGRES / "initdb"), "-D", data, "-U", "cola", "-A", "scram-sha-256",
            f"--pwfile={folder / 'password'}", "-E", "UTF8", "--no-sync",
        )  # fmt: skip
        log = str(folder / "log")
        run(str(POSTGRES / "pg_ctl"), "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql://cola:s3cret@127.0.0.1:{port}/postgres"
        finally:
            run(str(POSTGRES / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def s3_bucket(environment: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket of an S3 server in this process."""
    moto = pytest.importorskip("moto.server")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        environment.setenv(name, "not-a-secret")
    environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # What it holds outlives the server, within this process: an earlier test's files are let go.
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=60).raise_for_status()
    address = f"s3://bucket/prefix?scheme=http&endpoint_override={host}:{port}"
    CheckpointStore(f"{address}&allow_bucket_creation=true").filesystem.create_dir("bucket")
    try:
        yield address
    finally:
        server.stop()
