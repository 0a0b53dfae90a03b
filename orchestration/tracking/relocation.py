"""Artifacts of an output folder that was moved or copied.

MLflow keeps the absolute place of each run's artifacts in its database. In a copy that place is the
original's, so what is written there would change another output folder.
"""

from __future__ import annotations

import logging
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from cola.spec.address import Address, sqlite_file, with_driver

log = logging.getLogger(__name__)


def adopt_artifacts(address: Address, artifacts: Path) -> None:
    """Let the database of an output folder name that folder's own artifacts.

    `artifacts` holds one folder an experiment. Nothing is done for a store that lies elsewhere, or
    for experiments whose artifacts are another folder's by choice.

    Raises:
        SQLAlchemyError: the database cannot be read or written.
    """
    file = sqlite_file(address.uri)
    if file is None or file.parent.resolve() != artifacts.parent.resolve() or not file.is_file():
        return
    import sqlalchemy

    engine = sqlalchemy.create_engine(with_driver(address.uri), hide_parameters=True)
    try:
        with engine.begin() as connection:
            if sqlalchemy.inspect(connection).has_table("experiments"):
                _adopt(connection, artifacts)
    finally:
        engine.dispose()


def _adopt(connection: Any, artifacts: Path) -> None:
    from sqlalchemy import text

    query = text("SELECT experiment_id, name, artifact_location FROM experiments")
    for experiment, name, location in connection.execute(query).fetchall():
        own, given = artifacts / name, local_path(location or "")
        if given is None or given == own or given.parts[-2:] != (artifacts.name, name):
            continue
        if given.is_dir() and not own.is_dir():
            continue  # of another output folder that writes into this database
        values = {"new": own.as_uri(), "old": location, "id": experiment}
        connection.execute(
            text("UPDATE experiments SET artifact_location = :new WHERE experiment_id = :id"),
            {"new": values["new"], "id": experiment},
        )
        connection.execute(
            text(
                "UPDATE runs SET artifact_uri = :new || substr(artifact_uri, length(:old) + 1) "
                "WHERE experiment_id = :id AND substr(artifact_uri, 1, length(:old) + 1) = "
                ":old || '/'"
            ),
            values,
        )
        log.warning("experiment %s: its artifacts are in %s (before: %s)", name, own, given)


def local_path(location: str) -> Path | None:
    """The path of a file:// address or of a plain absolute path; None for any other place."""
    if location.startswith("file:"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(location).path))
    return Path(location) if location.startswith("/") else None
