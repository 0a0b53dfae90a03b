"""The HTTP side of `cola watch`: a page without data of its own, and the picture for who has the
token."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from importlib import resources
from typing import Any, Protocol

from cola.errors import ColaError
from orchestration.watch.picture import Picture
from orchestration.web.access_token import WATCH_TOKEN, AccessToken
from orchestration.web.local_server import JSON, LocalHandler

PICTURE = "/picture.json"
# What the page consists of; its script is the only one that may run, and asks this server alone.
FILES = {
    "/": ("watch.html", "text/html; charset=utf-8"),
    "/watch.css": ("watch.css", "text/css; charset=utf-8"),
    "/watch.js": ("watch.js", "text/javascript; charset=utf-8"),
}
POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}
READ_SECONDS = 1.0  # between two looks at the files, whatever the number of pages; a chosen value


class Watch(Protocol):
    """What follows the files of a study or a sweep."""

    def picture(self) -> Picture:
        """What the files show now.

        Raises:
            ColaError: they cannot be read.
        """


class Pictures:
    """The latest picture as JSON, with a digest by which a page knows that nothing has changed."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        self._taken = -READ_SECONDS  # monotonic seconds
        self._content, self._digest = b"", ""

    def latest(self) -> tuple[bytes, str]:
        """The picture, at most `READ_SECONDS` old, and its digest.

        Raises:
            ColaError: the files cannot be read.
        """
        with self._lock:
            if time.monotonic() - self._taken >= READ_SECONDS:
                values = self._watch.picture().as_json()
                text = json.dumps(values, ensure_ascii=False, allow_nan=False)
                self._content = text.encode("utf-8", "replace")
                self._digest = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'
                self._taken = time.monotonic()
            return self._content, self._digest


class WatchHandler(LocalHandler):
    """One connection of a browser."""

    methods = ("GET", "HEAD")

    def __init__(self, pictures: Pictures, token: AccessToken, *arguments: Any) -> None:
        self.pictures, self.token = pictures, token
        super().__init__(*arguments)

    def answer(self) -> None:
        """Answer one request."""
        if self.place in FILES:
            name, kind = FILES[self.place]
            self.send(file_of_page(name), kind, headers=POLICY)
        elif self.place != PICTURE:
            self.refuse(404, f"no such address; there are / and {PICTURE}")
        elif not self.token.accepts(self.headers.get("Authorization")):
            self.refuse(
                401,
                "Authorization: is not `Bearer TOKEN` with the token that `cola watch` printed, or "
                f"was given by {WATCH_TOKEN} or --token-file",
            )
        else:
            self._send_picture()

    def _send_picture(self) -> None:
        try:
            content, digest = self.pictures.latest()
        except ColaError as error:
            self.refuse(503, str(error))
            return
        if self.headers.get("If-None-Match") == digest:
            self.begin(304, {"ETag": digest})
        else:
            self.send(content, JSON, headers={"ETag": digest})


def file_of_page(name: str) -> bytes:
    """One of the files that the page consists of."""
    return (resources.files("orchestration") / "templates" / name).read_bytes()
