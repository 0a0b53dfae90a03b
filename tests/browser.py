"""A real browser through the DevTools protocol on a pipe: no port, no driver, no other package."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
SECONDS = 60.0  # for what a test waits for


class Page:
    """One tab. Widths are those of the page, also below a window's least one."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest, self._count = to, back, b"", 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.messages: list[str] = []  # errors of scripts, and what the page's policy blocks
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._note(answer)

    def open(self, url: str, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Go to an address, in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")  # an address that differs by its # alone
        self.call("Page.navigate", url=url)
        self.until("location.href != 'about:blank' && document.readyState == 'complete'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, as a plain value."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression holds."""
        deadline = time.monotonic() + SECONDS
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"{expression} never holds: {self.messages}"
            self.value("new Promise((done) => setTimeout(done, 50))")

    def press(self, key: str) -> None:
        """Press a key of the keyboard."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def offline(self, is_offline: bool) -> None:
        """Cut the tab off from all servers, or let it reach them again."""
        self.call("Network.emulateNetworkConditions", offline=is_offline, latency=0,
                  downloadThroughput=-1, uploadThroughput=-1)  # fmt: skip

    def save(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the whole page, or of what is in the window."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._back, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(message))

    def _note(self, answer: dict[str, Any]) -> None:
        parameters = answer.get("params", {})
        if answer.get("method") == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])
        elif answer.get("method") == "Runtime.exceptionThrown":
            self.messages.append(str(parameters["exceptionDetails"]))


@contextmanager
def page(profile: Path) -> Iterator[Page]:
    """A tab of a browser that ends with this."""
    assert BROWSER is not None
    (here, to), (back, there) = os.pipe(), os.pipe()

    def connect() -> None:  # the protocol's pipes are descriptors 3 and 4
        a, b = os.dup(here), os.dup(there)
        os.dup2(a, 3)
        os.dup2(b, 4)

    process = subprocess.Popen(
        [BROWSER, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=connect,
    )
    os.close(here)
    os.close(there)
    try:
        yield Page(to, back)
    finally:
        os.close(to)
        process.kill()
        process.wait(30)
        os.close(back)
