"""Addresses of tracking stores: given plainly, or by reference where they hold a password.

A reference is `env:NAME` (an environment variable) or `file:/path` (its first line). Whoever opens
the store resolves it; everything that is written or shown keeps the reference.
"""

from __future__ import annotations

import contextlib
import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from cola.errors import SpecError, one_line

# A password before the host, or as an option behind the question mark.
INLINE_PASSWORD = re.compile(r"://[^@\s]*:[^@\s]+@|[?&][a-z_]*(password|token|secret)=", re.I)
SQLITE = "sqlite:///"
QUOTED = {"%", "?", *map(chr, range(32)), "\x7f", "\x85", "\u2028", "\u2029"}  # and ends of lines


@dataclass(frozen=True)
class Address:
    """A resolved address and what may be shown of it."""

    uri: str
    shown: str
    hidden: tuple[str, ...] = ()

    @property
    def is_server(self) -> bool:
        """Whether it is an MLflow server (else a database)."""
        return self.uri.startswith(("http://", "https://"))

    def clean(self, error: object) -> str:
        """The error as one line in which no part of a hidden address is left."""
        text = " ".join(str(error).split()) or type(error).__name__
        for part in sorted(self.hidden, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "***", text)
        return one_line(text)


def resolve_address(given: str, key: str = "tracking.uri") -> Address:
    """The address behind `env:NAME` or `file:/path`; any other is taken as it is.

    Raises:
        SpecError: when the variable is not set, or the file cannot be read or is empty.
    """
    scheme, _, rest = given.partition(":")
    if scheme == "env":
        uri = os.environ.get(rest, "").strip()
        if not uri:
            raise SpecError(
                f"{key}={given}: the environment variable {rest} is not set here; export it "
                "where the study's driver runs"
            )
    elif scheme == "file":
        uri = _first_line(given, Path(urllib.parse.urlsplit(given).path), key)
    else:
        return Address(given, redacted(given), _userinfo(given))
    return Address(uri, given, _parts(uri))


def sqlite_uri(file: Path) -> str:
    """The address of a SQLite store in this file, whatever characters its path has.

    Those that SQLAlchemy, which opens the store, would read otherwise are quoted, and no others:
    see `remove_quoted_folder`.
    """
    return SQLITE + "".join(urllib.parse.quote(c) if c in QUOTED else c for c in str(file))


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of a SQLite store's file; None for any other address."""
    database = urllib.parse.unquote(uri.removeprefix(SQLITE).partition("?")[0])
    if not uri.startswith(SQLITE) or database in ("", ":memory:"):
        return None
    return Path(database).absolute()


def with_driver(uri: str) -> str:
    """The address, for PostgreSQL with the Python driver that this project installs, if it names
    none: SQLAlchemy's default differs between its versions."""
    scheme, separator, location = uri.partition("://")
    return f"postgresql+psycopg2://{location}" if separator and scheme == "postgresql" else uri


def remove_quoted_folder(uri: str) -> None:
    """Remove the empty folder that MLflow makes on opening a SQLite store with a quoted address.

    It makes the folder that the address names with its quotes, and the store in the one without.
    """
    file = sqlite_file(uri)
    quoted = Path(uri.removeprefix(SQLITE).partition("?")[0]).absolute()
    if file is None or quoted == file:
        return
    with contextlib.suppress(OSError):
        for folder in quoted.parents:
            if folder not in file.parents:
                folder.rmdir()


def holds_password(uri: str) -> bool:
    """Whether the address itself gives a password away."""
    return not uri.startswith("sqlite:") and INLINE_PASSWORD.search(uri) is not None


def redacted(uri: str) -> str:
    """The address without user name and password."""
    parts = urllib.parse.urlsplit(uri)
    if parts.username is None and parts.password is None:
        return uri
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return urllib.parse.urlunsplit(parts._replace(netloc=f"***@{host}{port}"))


def _first_line(given: str, path: Path, key: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise SpecError(
            f"{key}={given}: cannot be read ({reason}); give a file whose first line is the address"
        ) from None
    if not lines or not lines[0].strip():
        raise SpecError(f"{key}={given}: is empty; its first line must be the address")
    return lines[0].strip()


def _parts(uri: str) -> tuple[str, ...]:
    """Everything of an address that an error message may repeat."""
    parts = urllib.parse.urlsplit(uri)
    found = {uri, parts.netloc, parts.hostname or "", *_userinfo(uri)}
    found.add(parts.path if len(parts.path) > 1 else "")
    return tuple(found - {""})


def _userinfo(uri: str) -> tuple[str, ...]:
    parts = urllib.parse.urlsplit(uri)
    given = {part for part in (parts.username, parts.password) if part}
    return tuple(given | {urllib.parse.unquote(part) for part in given})
