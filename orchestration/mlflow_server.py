"""A local MLflow server over an output folder's store, on loopback only."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cola.spec import SpecError

HOST = "127.0.0.1"


def serve(root: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve until interrupted; the server ends with this process' command.

    Raises:
        SpecError: when the folder has no store, or the port is taken.
    """
    store = root / "mlflow.db"
    if not store.is_file():
        raise SpecError(f"output={root}: holds no mlflow.db; run a study first")
    port = free_port(port)
    command = server_command(store, root / "mlartifacts", port)
    process = subprocess.Popen(command)  # noqa: S603 (our own interpreter, no shell)
    say(f"MLflow on http://{HOST}:{port} (tracking.uri for studies: http://{HOST}:{port})")
    try:
        process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        process.terminate()
        process.wait()


def server_command(store: Path, artifacts: Path, port: int) -> list[str]:
    """MLflow's own server."""
    return [
        sys.executable, "-m", "mlflow", "server",
        "--backend-store-uri", f"sqlite:///{store}",
        "--artifacts-destination", artifacts.as_uri(),
        "--host", HOST,
        "--port", str(port),
    ]  # fmt: skip


def free_port(wanted: int) -> int:
    """The port itself if it is free; for 0 any free one.

    Raises:
        SpecError: when it is taken.
    """
    with socket.socket() as probe:
        try:
            probe.bind((HOST, wanted))
        except OSError:
            raise SpecError(f"--port {wanted}: is taken; leave it out for a free one") from None
        return int(probe.getsockname()[1])
