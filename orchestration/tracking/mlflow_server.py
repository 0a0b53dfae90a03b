"""A local MLflow server of an output folder's store or another database, on loopback only."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cola import process_environment
from cola.errors import SpecError
from cola.files import file_lock
from cola.spec.address import (
    Address,
    holds_password,
    remove_quoted_folder,
    resolve_address,
    sqlite_uri,
    with_driver,
)
from orchestration.state.paths import OutputFolder
from orchestration.tracking.mlflow_client import check_answers, store_lock
from orchestration.tracking.pages import study_pages
from orchestration.tracking.relocation import adopt_artifacts

HOST = "127.0.0.1"
POLL_SECONDS = 0.5  # between two looks at whether the server answers; a chosen value


def serve(
    root: Path, port: int, notify: Callable[[str], None], *, store: str | None = None
) -> None:
    """Serve until interrupted.

    `store` is a database's address or a reference to it (None: the output folder's SQLite file).
    Artifacts are stored in the output folder in any case.

    Raises:
        SpecError: when the folder has no store, the address is none of a database or contains a
            password, or the port is taken.
        TrackingError: when the folder's store is not one of MLflow.
    """
    address = backend(root, store)
    port = free_port(port)
    command = server_command(OutputFolder(root).artifacts, port)
    environment = process_environment.mlflow_server(with_driver(address.uri))
    process = subprocess.Popen(command, env=environment)  # noqa: S603 (our interpreter, no shell)
    server = f"http://{HOST}:{port}"
    notify(f"MLflow on {server} (tracking.uri for studies: {server}); it starts ...")
    try:
        announce(process, server, notify)
        process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        process.terminate()
        process.wait()
        remove_quoted_folder(address.uri)


def announce(process: subprocess.Popen[bytes], server: str, notify: Callable[[str], None]) -> None:
    """Name the page of every study's runs once the server answers; nothing where it ends before."""
    while process.poll() is None:
        try:
            pages = study_pages(server)
        except (OSError, ValueError):
            time.sleep(POLL_SECONDS)
            continue
        for study, page in pages.items():
            notify(f"{study}: {page}")
        notify("these are all runs in a list; Ctrl-C ends the server")
        return


def backend(root: Path, store: str | None) -> Address:
    """The database to serve.

    Raises:
        SpecError: see `serve`.
    """
    if store is None:
        file = OutputFolder(root).mlflow
        if not file.is_file():
            raise SpecError(f"output={root}: holds no mlflow.db; run a study first")
        address = resolve_address(sqlite_uri(file), "--store")
        check_answers(address)
        with file_lock(store_lock(file)):
            adopt_artifacts(address, OutputFolder(root).artifacts)
        return address
    if holds_password(store):
        raise SpecError(
            "--store: holds a password, which others see in the list of processes; put the "
            "address into an environment variable or a file and give env:NAME or file:/path"
        )
    address = resolve_address(store, "--store")
    if address.is_server or "://" not in address.uri:
        raise SpecError(
            f"--store {address.shown}: is not a database; give sqlite:///FILE.db, or env:NAME or "
            "file:/path of a postgresql:// address"
        )
    return address


def server_command(artifacts: Path, port: int) -> list[str]:
    """Command line of MLflow's server; its database is given in the environment."""
    return [
        sys.executable, "-m", "mlflow", "server",
        "--artifacts-destination", artifacts.as_uri(),
        "--host", HOST,
        "--port", str(port),
    ]  # fmt: skip


def free_port(port: int) -> int:
    """The port itself if it is free; for 0 any free one.

    Raises:
        SpecError: when it is taken.
    """
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            raise SpecError(f"--port {port}: is taken; leave it out for a free one") from None
        return int(probe.getsockname()[1])
