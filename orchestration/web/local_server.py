"""An HTTP server on loopback: bounded connections, clean ends, and nothing secret in its logs."""

from __future__ import annotations

import json
import logging
import select
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from cola.errors import SpecError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
# Names under which browsers and clients reach this machine: a page of another site that a name of
# its own leads here sends that name.
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
MOST_CONNECTIONS = 64  # at once; chosen: several clients, and far from exhausting a process
IDLE_SECONDS = 30.0  # of a connection that sends or takes nothing; a chosen value
JSON, TEXT = "application/json", "text/plain; charset=utf-8"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class LocalServer(ThreadingHTTPServer):
    """Serves on a loopback port by one thread a connection; more than a limit are turned away.

    From its making on it listens; connections wait until `serve` answers them.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, port: int) -> None:
        """Listen on this port (0: a free one).

        Raises:
            SpecError: the port is taken.
        """
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        try:
            super().__init__((HOST, port), LocalHandler)
        except OSError as error:
            raise SpecError(
                f"--port {port}: cannot be listened on ({error.strerror}); leave it out for a "
                "free one"
            ) from None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, if there is room for one more connection."""
        if not self._room.acquire(blocking=False):
            log.warning("%d connections are open: another one is turned away", MOST_CONNECTIONS)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection, and make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a client's end or silence has broken off."""
        log.debug("a connection broke off", exc_info=True)

    def serve(self, handler: Callable[..., LocalHandler], stop: threading.Event) -> None:
        """Answer by `handler`, made for each connection, until `stop` is set; the port is free
        after it."""
        self.RequestHandlerClass = handler
        thread = threading.Thread(target=self.serve_forever, name="http", daemon=True)
        thread.start()
        try:
            # A wait without a limit would keep signals from their handlers on some systems.
            while not stop.wait(1.0):
                pass
        finally:
            self.shutdown()
            self.server_close()


class LocalHandler(ABC, BaseHTTPRequestHandler):
    """Answers JSON or text; a subclass says what, by method, in `answer`."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "cola-scaling", ""
    timeout = IDLE_SECONDS
    methods: tuple[str, ...] = ("GET",)

    @property
    def place(self) -> str:
        """The path that is asked for, without its query."""
        return self.path.partition("?")[0]

    @abstractmethod
    def answer(self) -> None:
        """Answer one request."""

    def refuse(self, status: int, message: str) -> None:
        """Answer that the request is not taken, and why."""
        self.send_json({"error": message}, status)

    def handle_one(self) -> None:
        """Answer one request, unless a name or a method keeps it from being one of ours."""
        if not is_local(self.headers.get("Host") or ""):
            self.close_connection = True
            self.refuse(403, "Host: is no name of this machine; use 127.0.0.1 or localhost")
        elif self.command not in self.methods:
            self.close_connection = True  # the body is not read
            allowed = ", ".join(self.methods)
            self.refuse(405, f"{self.command}: is not for this server; it takes {allowed}")
        else:
            self.answer()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = handle_one

    def send_json(
        self, values: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer with a JSON value."""
        content = json.dumps(values, ensure_ascii=False, allow_nan=False)
        self.send(content.encode("utf-8", "replace"), JSON, status, headers=headers)

    def send(
        self,
        content: bytes,
        kind: str,
        status: int = 200,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer with these bytes."""
        self.begin(status, {"Content-Type": kind, "Content-Length": str(len(content))}, headers)
        if self.command != "HEAD":
            self.wfile.write(content)

    def begin(
        self, status: int, headers: Mapping[str, str], more: Mapping[str, str] | None = None
    ) -> None:
        """Send the status and the headers."""
        self.send_response(status)
        for name, value in {**HEADERS, **headers, **(more or {})}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses: a malformed request."""
        self.close_connection = True
        self.command = getattr(self, "command", None) or ""
        self.refuse(code, message or "the request is malformed")

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Method, path and status; no header and no query, which may have secrets."""
        status = getattr(code, "value", code)
        log.info("%s %s: %s", self.command, getattr(self, "path", "").partition("?")[0], status)

    def log_message(self, format: str, *args: Any) -> None:
        """The standard library's own lines."""
        log.debug("a request: %s", format.split("%", maxsplit=1)[0].strip() or "received")


def is_local(host: str) -> bool:
    """Whether a request's `Host` is this machine, whatever the port: one may be forwarded."""
    try:
        return urlsplit(f"//{host}").hostname in LOCAL_NAMES
    except ValueError:
        return False


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    try:
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
