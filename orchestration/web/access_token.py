"""The token that clients of a local server send: `Authorization: Bearer TOKEN`."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from cola.errors import SpecError, one_line

# Environment variables with the token of `cola serve-model` and of `cola watch`.
SERVE_TOKEN, WATCH_TOKEN = "COLA_SERVE_TOKEN", "COLA_WATCH_TOKEN"
TOKEN_BYTES = 32
LEAST_CHARACTERS = 16  # of a token that a person gives; a chosen value


@dataclass(frozen=True)
class AccessToken:
    """A token, of which only the digest is kept; `shown` has one that was made here, to print it
    once."""

    digest: bytes
    shown: str | None = None

    def __repr__(self) -> str:
        return "AccessToken(...)"

    def accepts(self, header: str | None) -> bool:
        """Whether an `Authorization` header has it; the comparison takes the same time for all."""
        scheme, _, given = (header or "").partition(" ")
        is_same = hmac.compare_digest(digest_of(given.strip()), self.digest)
        return is_same and scheme.lower() == "bearer"


def digest_of(text: str) -> bytes:
    """SHA-256 of a token; headers have Latin-1 alone."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def access_token(file: Path | None, variable: str) -> AccessToken:
    """The token in the file, else in the environment variable of this name, else a new one.

    Raises:
        SpecError: both are given, or what is given cannot be read or is no token.
    """
    given = os.environ.get(variable)
    if file is not None and given is not None:
        raise SpecError(
            f"--token-file {file}: {variable} is set too; give one of the two (`unset {variable}`)"
        )
    if file is not None:
        return AccessToken(digest_of(checked(_read(file), f"--token-file {file}")))
    if given is not None:
        return AccessToken(digest_of(checked(given, variable)))
    made = secrets.token_urlsafe(TOKEN_BYTES)
    return AccessToken(digest_of(made), made)


def _read(file: Path) -> str:
    try:
        mode = stat.S_IMODE(file.expanduser().stat().st_mode)
        text = file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise SpecError(
            f"--token-file {file}: cannot be read ({one_line(error)}); name a file with a token"
        ) from None
    if mode & 0o077:
        raise SpecError(
            f"--token-file {file}: other users may read it (mode {mode:04o}); chmod 600 {file}"
        )
    return text


def checked(text: str, where: str) -> str:
    """The token in a text, which no message shows.

    Raises:
        SpecError: it is too short, or not one word of ASCII.
    """
    token = text.strip()
    remedy = f"`openssl rand -hex {TOKEN_BYTES}` makes one"
    if len(token) < LEAST_CHARACTERS:
        raise SpecError(
            f"{where}: the token has {len(token)} characters, and at least {LEAST_CHARACTERS} are "
            f"needed; {remedy}"
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise SpecError(f"{where}: a token is one word of printable ASCII characters; {remedy}")
    return token
