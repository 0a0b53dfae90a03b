"""Addresses of `checkpoint.storage` and `output_mirror`: a folder or a URI without credentials."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from cola.errors import SpecError

STORAGE_KEY = "checkpoint.storage"

# Names of query parameters that may hold a secret.
SECRETS = re.compile(r"key|secret|token|passw|credential|signature|sig$|sas|account", re.IGNORECASE)


def is_folder(storage: str) -> bool:
    """Whether it is a folder's path rather than an address."""
    return "://" not in storage


def resolved(storage: str, key: str = STORAGE_KEY) -> str:
    """The folder as an absolute path, or the address unchanged; `key` is what messages name.

    Raises:
        SpecError: for an address that holds credentials, names no bucket, or leads upwards.
    """
    if is_folder(storage):
        return str(Path(storage).expanduser().resolve())
    parts = urlsplit(storage)
    secret = "@" in parts.netloc or any(
        SECRETS.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)
    )
    if secret:
        raise SpecError(
            f"{key}={redacted(storage)}: holds credentials; leave them out of the "
            "address and set them in the environment (as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY)"
        )
    if not parts.netloc and not parts.path.strip("/"):
        raise SpecError(
            f"{key}={redacted(storage)}: names no bucket; write it as s3://bucket/prefix"
        )
    if ".." in unquote(parts.path).split("/"):
        raise SpecError(
            f"{key}={redacted(storage)}: '..' leads out of the bucket; write the path without it"
        )
    return storage


def joined(address: str, name: str) -> str:
    """The address of `name` below `address`; a query stays at the end."""
    if is_folder(address):
        return str(Path(address) / name)
    parts = urlsplit(address)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/{name}{query}"


def redacted(storage: str) -> str:
    """The address for messages: without user, password and query."""
    if is_folder(storage):
        return storage
    parts = urlsplit(storage)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
