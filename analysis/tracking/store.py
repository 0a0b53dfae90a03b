"""An MLflow store, opened for reading; what goes wrong with it becomes one line."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import urllib.parse
from collections.abc import Iterator
from typing import Any

from cola import process_environment
from cola.errors import SpecError, TrackingError
from cola.spec.address import SQLITE, Address, resolve_address, sqlite_file, with_driver


@contextlib.contextmanager
def mlflow_store(tracking_uri: str) -> Iterator[tuple[Any, Address]]:
    """MLflow's client of the store at an address, or at a reference to one.

    Raises:
        SpecError: the address is none of a store.
        TrackingError: MLflow does not answer, also within the block.
    """
    address = resolve_address(tracking_uri)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    process_environment.mlflow_reader()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # it shows addresses
    try:
        check_store(address)
        yield MlflowClient(tracking_uri=with_driver(address.uri)), address
    except ModuleNotFoundError as error:
        raise TrackingError(
            f"tracking.uri={address.shown}: needs the Python package {error.name}, which is not "
            "installed"
        ) from None
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = address.clean(getattr(error, "orig", None) or error)
        if "mlflow db upgrade" in reason:
            reason = "its tables are those of another MLflow release"
        raise TrackingError(
            f"tracking.uri={address.shown}: MLflow cannot be read ({reason}); check the address, "
            "the network and the credentials, and that the store is of this MLflow release "
            "(cola doctor)"
        ) from None


def check_store(address: Address) -> None:
    """Refuse what is no MLflow store: MLflow's client would make its tables in any database.

    Raises:
        SpecError: the address is none of a store, or its file is missing or of something else.
        sqlite3.Error: the file cannot be read as a database.
    """
    where = f"tracking.uri={address.shown}"
    if urllib.parse.urlsplit(address.uri).scheme in ("", "file") or address.uri == SQLITE:
        raise SpecError(
            f"{where}: is not a tracking store; give sqlite:///FILE.db or a server's http(s) "
            "address"
        )
    file = sqlite_file(address.uri)
    if file is None:
        return
    if not file.is_file():
        raise SpecError(f"{where}: no such file; `cola run` makes it from the runs' journals")
    source = f"file:{urllib.parse.quote(str(file))}?mode=ro"
    with contextlib.closing(sqlite3.connect(source, uri=True)) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = [name for (name,) in found]
    if "experiments" not in tables:
        what = f"of something else (it has the table {tables[0]})" if tables else "empty"
        raise SpecError(
            f"{where}: the database is {what}, and no MLflow store; name that of the study's runs"
        )
