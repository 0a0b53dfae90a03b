"""What can go wrong, as a tree: each branch is for another person or another remedy.

A message names the path (key or file), the value and the remedy. `exit_code` is what the `cola`
command ends with; 1 is left for a study or sweep that ended with runs that are not finished, and
INTERRUPTED for a command that a person stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

INTERRUPTED = 130  # as a shell has it: 128 and the number of SIGINT
MOST_CHARACTERS = 300  # of a foreign error's text within one of ours: about four lines


class ColaError(Exception):
    """Anything that the product refuses or cannot do, explained in one line."""

    exit_code = 1


class SpecError(ColaError):
    """A specification, an option or an input file that is invalid or impossible here."""

    exit_code = 2


class FitError(ColaError):
    """A fit that the data cannot carry; a request like an invalid specification."""

    exit_code = 2


class StorageError(ColaError):
    """A folder, disk or object store that cannot be written, read or locked."""

    exit_code = 3


class ClusterError(ColaError):
    """A Ray cluster that cannot be reached, refuses, or has no room for the run."""

    exit_code = 4


class TrackingError(ColaError):
    """An MLflow store that cannot be reached, refuses, or is of another schema."""

    exit_code = 5


class RunError(ColaError):
    """A run whose training, controller or node failed."""

    exit_code = 6


def one_line(error: BaseException | str, limit: int = MOST_CHARACTERS) -> str:
    """An error's text on one line of at most `limit` characters; " ..." marks what was cut.

    An error without a text gives the name of its class.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]} ..."


def first_of(texts: Sequence[str], most: int = 3, separator: str = ", ") -> str:
    """The first texts as one clause, and how many more there are: "a, b, c and 4 more"."""
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def validation_problem(error: Any) -> str:
    """The first problem of a pydantic ValidationError, with the key that has it."""
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"]))
    return f"{key}: {problem['msg']}" if key else str(problem["msg"])
