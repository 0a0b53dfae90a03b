"""MLflow's client and the store behind it: reached, refused, made once, shown without secrets."""

from __future__ import annotations

import contextlib
import logging
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cola import process_environment
from cola.errors import SpecError
from cola.files import file_lock
from cola.spec.address import Address

CONNECT_SECONDS = 5.0
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN,"


def client_of(address: Address) -> Any:
    """MLflow's client, its patience short: whoever uses it tries again at their own pace.

    Its credentials and certificates are those of MLFLOW_TRACKING_* in the environment.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # What it says of a database that does not answer may hold the address.
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)
    process_environment.mlflow_writer()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=with_driver(address.uri))


def with_driver(uri: str) -> str:
    """A PostgreSQL address that names no Python driver gets the one that this project installs.

    SQLAlchemy's own choice differs between its versions.
    """
    scheme, separator, rest = uri.partition("://")
    return f"postgresql+psycopg2://{rest}" if separator and scheme == "postgresql" else uri


def check_answers(address: Address) -> None:
    """Ask the store once, with the credentials that will be used.

    Raises:
        SpecError: when it cannot be reached, or refuses; the address is not shown in full.
    """
    scheme = urllib.parse.urlsplit(address.uri).scheme
    where = f"tracking.uri={address.shown}"
    if not scheme or scheme == "file":
        raise SpecError(
            f"{where}: is not a tracking store; give sqlite:///FILE.db or a server's http(s) "
            "address"
        )
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _connect(address.uri)
        if address.is_server:
            client_of(address).search_experiments(max_results=1)
        else:
            _ask_database(address.uri)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"{where}: needs the Python package {error.name}; for PostgreSQL install "
            "cola-scaling[postgres]"
        ) from None
    except (MlflowException, SQLAlchemyError, OSError, ValueError) as error:
        remedy = "start the server, or leave tracking.uri out to use a SQLite file"
        raise SpecError(
            f"{where}: MLflow cannot be reached ({failure_reason(address, error)})"
            + (f"; {remedy}" if http_status(error) >= 500 else "")
        ) from None


def failure_reason(address: Address, error: Exception) -> str:
    """Why the store did not do what it was asked, in a line without secrets."""
    reason = address.clean(error)
    if http_status(error) in (401, 403):
        return f"MLflow refuses the credentials; set {CREDENTIALS} where the driver runs"
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return (
            "the server's certificate is not trusted here; set MLFLOW_TRACKING_SERVER_CERT_PATH "
            "to the file of the authority that signed it"
        )
    return reason


def is_outage(error: Exception) -> bool:
    """Whether the store does not work now (else it works, and refused this one request)."""
    return http_status(error) >= 500


def http_status(error: Exception) -> int:
    """The error as an HTTP status; 500 for what never reached the store."""
    from mlflow.exceptions import MlflowException

    return int(error.get_http_status_code()) if isinstance(error, MlflowException) else 500


def client_errors() -> tuple[type[Exception], ...]:
    """What MLflow's client raises when a request fails."""
    from mlflow.exceptions import MlflowException

    return MlflowException, OSError


def _connect(uri: str) -> None:
    """A dead host is found in seconds: MLflow's own clients take minutes."""
    parts = urllib.parse.urlsplit(uri)
    if parts.hostname:
        port = parts.port or PORTS.get(parts.scheme.partition("+")[0], 80)
        with socket.create_connection((parts.hostname, port), CONNECT_SECONDS):
            return


def _ask_database(uri: str) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(with_driver(uri), hide_parameters=True)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


@contextlib.contextmanager
def creation_lock(address: Address, artifacts: Path) -> Iterator[None]:
    """Two first users of a database would both make its tables, and one of them fail."""
    if address.is_server:
        yield
        return
    file = sqlite_file(address.uri)
    place = artifacts.parent / "store.lock" if file is None else store_lock(file)
    with file_lock(place):
        yield


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).absolute() if uri.startswith(prefix) else None


def store_lock(store: Path) -> Path:
    """What is locked while a SQLite store is made."""
    return store.with_name(store.name + ".lock")
