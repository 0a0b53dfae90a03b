"""Environments in which Ray cannot be imported or started, each with its remedy."""

from __future__ import annotations

import sys
from pathlib import Path

from cola.errors import SpecError

MOST_OPTIMIZED = 1  # of Python's -O: 2 removes the texts of functions, which Ray's import changes


def optimisation_problem(level: int | None = None) -> str | None:
    """Why Ray cannot be imported under this -O; None where it can."""
    level = sys.flags.optimize if level is None else level
    if level <= MOST_OPTIMIZED:
        return None
    return (
        f"PYTHONOPTIMIZE={level}: removes the documentation of functions, which Ray needs to be "
        f"imported; unset it, or set it to {MOST_OPTIMIZED}"
    )


def home_problem() -> str | None:
    """Why Ray has no home folder; None where it has one."""
    try:
        Path.home()
    except RuntimeError:
        return (
            "HOME: is not set, and this user has no entry with a home folder, which Ray looks for; "
            "export HOME=/FOLDER that this user may write"
        )
    return None


def check_interpreter() -> None:
    """Check that Ray can be imported and started here.

    Raises:
        SpecError: it cannot; the message has the remedy.
    """
    problem = optimisation_problem() or home_problem()
    if problem is not None:
        raise SpecError(problem)
