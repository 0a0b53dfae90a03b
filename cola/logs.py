"""The project's logs: one line a record on stderr with time, level and module.

Only the project's own loggers are set up; those of libraries stay as they are. Processes that a
command starts inherit the level through their environment.
"""

from __future__ import annotations

import logging
import os
import sys

from cola import process_environment
from cola.errors import SpecError

log = logging.getLogger(__name__)

VARIABLE = "COLA_LOG"
LEVELS = {"info": logging.INFO, "debug": logging.DEBUG}
PACKAGES = ("cola", "orchestration", "sweeps", "analysis")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class OneLine(logging.Formatter):
    """Joins the lines of a message or traceback with ` | `."""

    def format(self, record: logging.LogRecord) -> str:
        """Text of a record, without line breaks."""
        return " | ".join(line for line in super().format(record).splitlines() if line.strip())


class StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at that moment: a live table puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def set_up_logging(verbosity: int = 0) -> None:
    """Send warnings of the project to stderr, and what COLA_LOG or `verbosity` asks for.

    `verbosity` is 0 (COLA_LOG decides), 1 (info) or more (debug); it becomes the COLA_LOG of this
    process and so of those that it starts. A second call replaces the first one's set-up.

    Raises:
        SpecError: COLA_LOG is neither a level nor empty.
    """
    if verbosity > 0:
        process_environment.log_level("info" if verbosity == 1 else "debug")
    level = chosen_level()
    handler = StderrHandler()
    handler.setFormatter(OneLine(FORMAT))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers = [h for h in logger.handlers if not isinstance(h, StderrHandler)]
        logger.addHandler(handler)
        # Ray Train gives its workers' root logger a handler, which would write each line again.
        logger.propagate = False
    log.debug("process %d logs at level %s", os.getpid(), logging.getLevelName(level))


def chosen_level() -> int:
    """The level that COLA_LOG names; WARNING where it is unset or empty.

    Raises:
        SpecError: it names none.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return logging.WARNING
    if text.lower() not in LEVELS:
        raise SpecError(f"{VARIABLE}={text}: write {' or '.join(LEVELS)}, or unset it")
    return LEVELS[text.lower()]


def inherited_variables() -> dict[str, str]:
    """What processes on other machines need in their environment for the same logs."""
    return {VARIABLE: os.environ[VARIABLE]} if os.environ.get(VARIABLE) else {}
