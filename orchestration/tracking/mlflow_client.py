"""MLflow's client and the store behind it: connecting, creating it once, errors without secrets."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cola import process_environment
from cola.errors import SpecError, TrackingError
from cola.files import file_lock
from cola.spec.address import Address, remove_quoted_folder, sqlite_file, with_driver

CONNECT_SECONDS = 5.0  # chosen value: a host in the same network answers within milliseconds
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN,"


def client_of(address: Address) -> Any:
    """MLflow's client with short timeouts and no retries: its users retry at their own pace.

    It takes credentials and certificates from MLFLOW_TRACKING_* in the environment.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # Messages about a database that does not answer may contain its address.
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)
    process_environment.mlflow_writer()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=with_driver(address.uri))


def check_answers(address: Address, artifacts: Path | None = None) -> None:
    """Send the store one request, with the credentials that will be used.

    A store that another process is creating is waited for; see `creation_lock` for `artifacts`.

    Raises:
        SpecError: for an address that is none of a tracking store.
        TrackingError: when it cannot be reached, or refuses; the address is not shown in full.
    """
    scheme = urllib.parse.urlsplit(address.uri).scheme
    where = f"tracking.uri={address.shown}"
    if not scheme or scheme == "file":
        raise SpecError(
            f"{where}: is not a tracking store; give sqlite:///FILE.db or a server's http(s) "
            "address"
        )
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

    being_created = creation_lock(address, artifacts) if _is_lockable(address, artifacts) else None
    try:
        _connect(address.uri)
        with being_created or contextlib.nullcontext():
            if address.is_server or _has_tables(address):
                client_of(address).search_experiments(max_results=1)
                remove_quoted_folder(address.uri)
    except ModuleNotFoundError as error:
        raise TrackingError(
            f"{where}: needs the Python package {error.name}; for PostgreSQL install "
            "cola-scaling[postgres]"
        ) from None
    except (MlflowException, SQLAlchemyError, OSError, ValueError) as error:
        reached = isinstance(error, MlflowException | DatabaseError) and not address.is_server
        verb = "used" if reached and not isinstance(error, OperationalError) else "reached"
        raise TrackingError(
            f"{where}: MLflow cannot be {verb} ({failure_reason(address, error)})"
            + remedy_of(address, error)
        ) from None


def failure_reason(address: Address, error: Exception) -> str:
    """One-line, secret-free reason for a failed MLflow request."""
    reason = database_reason(address.clean(getattr(error, "orig", None) or error))
    if http_status(error) in (401, 403):
        return f"MLflow refuses the credentials; set {CREDENTIALS} where the driver runs"
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return (
            "the server's certificate is not trusted here; set MLFLOW_TRACKING_SERVER_CERT_PATH "
            "to the file of the authority that signed it"
        )
    return reason


def remedy_of(address: Address, error: Exception) -> str:
    """What to do about a store that does not answer, as the end of a message; maybe empty."""
    named = "CERTIFICATE_VERIFY_FAILED" in str(error) or "mlflow db upgrade" in str(error)
    if named or http_status(error) in (401, 403):
        return ""  # the reason names it
    if address.is_server:
        return "; start the server, or leave tracking.uri out to use a SQLite file"
    if sqlite_file(address.uri) is None:
        return "; start the database, or leave tracking.uri out to use a SQLite file"
    if "unable to open" in str(error) or "readonly" in str(error):
        return "; check that its folder is there and can be written, or name another file"
    if "locked" in str(error):
        return "; wait for the program that uses it, or end that"
    return (
        "; restore the file from a copy, or move it away: `cola run` makes a new one and fills it "
        "from the runs' journals"
    )


def database_reason(reason: str) -> str:
    """The reason in this product's words where MLflow's own would mislead."""
    if "database schema" in reason and "mlflow db upgrade" in reason:
        return (
            "its tables are those of another MLflow release; use that release, or `mlflow db "
            "upgrade` after a backup if it is an older one"
        )
    if "'active' state" in reason and "deleted" in reason:
        return (
            "the experiment or the run was deleted in MLflow; restore it there (`mlflow "
            "experiments restore`, `mlflow runs restore`)"
        )
    return reason


def is_outage(error: Exception) -> bool:
    """Whether the store is down (otherwise it refused this one request)."""
    return http_status(error) >= 500


def http_status(error: Exception) -> int:
    """The error's HTTP status; 500 for a request that never reached the store."""
    from mlflow.exceptions import MlflowException

    return int(error.get_http_status_code()) if isinstance(error, MlflowException) else 500


def client_errors() -> tuple[type[Exception], ...]:
    """The exceptions by which MLflow's client reports a failed request."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError


def _connect(uri: str) -> None:
    """Find a dead host within seconds: MLflow's own client takes minutes."""
    parts = urllib.parse.urlsplit(uri)
    if parts.hostname:
        port = parts.port or PORTS.get(parts.scheme.partition("+")[0], 80)
        with socket.create_connection((parts.hostname, port), CONNECT_SECONDS):
            return


def _has_tables(address: Address) -> bool:
    """Whether the database holds MLflow's tables; a new one is empty until its first study.

    Raises:
        SQLAlchemyError: it is no database, or cannot be reached.
        TrackingError: it is a SQLite file of something else.
    """
    import sqlalchemy

    engine = sqlalchemy.create_engine(with_driver(address.uri), hide_parameters=True)
    try:
        with engine.connect() as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()
    finally:
        engine.dispose()
    if "experiments" in tables:
        return True
    if tables and sqlite_file(address.uri) is not None:
        raise TrackingError(
            f"tracking.uri={address.shown}: is a database of something else (it has the table "
            f"{tables[0]}, none of MLflow's); name another file"
        )
    return False


@contextlib.contextmanager
def creation_lock(address: Address, artifacts: Path | None) -> Iterator[None]:
    """Hold the lock under which a store is created: of two first users of a database, both would
    create its tables, and one of them would fail.

    It lies beside a SQLite file; of another database beside the folder of the study's artifacts.
    """
    beside = sqlite_file(address.uri)
    if beside is None and artifacts is not None:
        beside = artifacts.parent / "store"
    if address.is_server or beside is None:
        yield
        return
    with file_lock(store_lock(beside)):
        yield


def _is_lockable(address: Address, artifacts: Path | None) -> bool:
    """Whether another process may be creating the store: not in a folder where nobody can."""
    file = sqlite_file(address.uri)
    return artifacts is not None if file is None else os.access(file.parent, os.W_OK)


def store_lock(store: Path) -> Path:
    """The file that is locked while a SQLite store is created."""
    return store.with_name(store.name + ".lock")
