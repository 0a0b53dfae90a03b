"""The process that measures: a part that hangs, or dies for want of memory, costs itself alone."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import multiprocessing
import os
import platform
import signal
from multiprocessing.connection import Connection
from typing import Any

from cola.errors import ColaError, RunError, one_line
from orchestration.benchmark.parts import Part

STARTUP_SECONDS = 300.0  # chosen: for imports from a cold disk
PACKAGES = ("torch", "transformers", "deepspeed", "ray", "numpy")

log = logging.getLogger(__name__)


class PartError(Exception):
    """A part without a result, for a reason in words."""


class MeasuringProcess:
    """A process that measures one part after another; a context manager."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Connection | None = None

    def __enter__(self) -> MeasuringProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> dict[str, Any]:
        """The device and the versions, once the process has imported what it needs.

        Raises:
            RunError: it does not start.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other,), daemon=True)
        self._process.start()
        other.close()
        try:
            found = self._answer(STARTUP_SECONDS)
        except PartError as problem:
            raise RunError(f"the measuring process does not start: {problem}") from None
        return dict(found)

    def measure(self, part: Part, *, seconds: float, limit: float) -> dict[str, Any]:
        """What the part's measurement gives; the process is there again after a failure.

        Raises:
            PartError: it takes longer than `limit` seconds, fails, or ends the process.
            RunError: a new process does not start.
        """
        if self._pipe is None:
            self.start()
        assert self._pipe is not None
        with contextlib.suppress(OSError):  # of a process that has died: see `_answer`
            self._pipe.send((part, seconds))
        found = self._answer(limit)
        if isinstance(found, str):
            raise PartError(found)
        return dict(found)

    def _answer(self, limit: float) -> Any:
        assert self._pipe is not None
        try:
            if not self._pipe.poll(limit):
                self.stop()
                raise PartError(f"is not done after its limit of {limit:.0f} s")
            return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode
            self.stop()
            raise PartError(
                f"its process died (exit code {code}), as it does where memory is short"
            ) from None

    def stop(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
        self._pipe = self._process = None


def serve(pipe: Connection) -> None:
    """Answer with the device's description, then with the result of each part, or why there is
    none, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command's to handle
    from orchestration.benchmark.measure import measure

    pipe.send(describe_machine())
    while True:
        try:
            part, seconds = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(measure(part, seconds))
        except ColaError as error:
            pipe.send(one_line(error))
        except Exception as error:  # of any kind: other parts are measured all the same
            log.debug("%s", part.name, exc_info=True)
            pipe.send(f"{type(error).__name__}: {one_line(error)}")


def describe_machine() -> dict[str, Any]:
    """The machine, its devices and the versions that results depend on."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "gpu_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), "cola-scaling": version("cola-scaling")}
        | {name: version(name) for name in PACKAGES},
    }


def processor() -> str:
    """The CPU's model."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """The installed version; None where the package is run from its sources, or is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
