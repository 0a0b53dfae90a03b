"""The token of Ray clusters on this machine: a file that only its user can read."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
from pathlib import Path

from cola import process_environment
from cola.errors import SpecError, one_line
from orchestration.compat.ray import reread_environment

log = logging.getLogger(__name__)

TOKEN_BYTES = 32  # as many as Ray's own tokens have
GIVEN_BY = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def has_token() -> bool:
    """Whether Ray will find an authentication token: in its variables, or in the home folder."""
    if any(os.environ.get(name) for name in GIVEN_BY):
        return True
    with contextlib.suppress(OSError, RuntimeError):  # no home, or one that cannot be read
        return (Path.home() / ".ray" / "auth_token").is_file()
    return False


def choose_authentication() -> None:
    """Use tokens if there is one, unless RAY_AUTH_MODE is set.

    A Ray that is loaded already reads the mode again: otherwise clusters that this process starts
    later would ask for tokens that it does not send.

    Raises:
        SpecError: the variable that names the token's file names none.
    """
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path and not os.environ.get("RAY_AUTH_TOKEN") and not Path(path).is_file():
        raise SpecError(
            f"RAY_AUTH_TOKEN_PATH={path}: no such file; name one that holds the cluster's token, "
            "or set RAY_AUTH_TOKEN"
        )
    if process_environment.job_client(has_token=has_token()):
        reread_environment()


def token_of(reference: str) -> str:
    """The token that `env:NAME` or `file:/path` refers to.

    Raises:
        SpecError: there is none.
    """
    kind, _, place = reference.partition(":")
    if kind == "env":
        token = os.environ.get(place, "").strip()
    else:
        try:
            token = Path(place).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError, RuntimeError) as error:
            raise SpecError(f"token={reference}: cannot be read ({one_line(error)})") from None
    if not token:
        raise SpecError(f"token={reference}: is empty; put the cluster's token there")
    return token


def make_token_private() -> None:
    """Make Ray's token file if there is none, and take it from other users if they can read it.

    Ray itself would write it with the mode that the process's umask leaves, 0644 by default. Where
    the variables of Ray name another token, or the home folder cannot be written, nothing is done.
    """
    if any(name in os.environ for name in GIVEN_BY):
        return
    with contextlib.suppress(OSError, RuntimeError):  # no home, or one that cannot be written
        file = Path.home() / ".ray" / "auth_token"
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as opened:
                opened.write(secrets.token_hex(TOKEN_BYTES))
        found = file.stat()
        if found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) & 0o077:
            file.chmod(0o600)
            log.info("%s: other users could read it; its mode is 0600 from here on", file)
