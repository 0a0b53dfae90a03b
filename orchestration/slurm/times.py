"""Time limits as Slurm writes them, and the grace that a job needs before its limit."""

from __future__ import annotations

import math
import re

from cola.errors import SpecError

FORMS = "minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]"
# Ray and the nodes' processes are ended after the study has left; measured: 1 to 3 s.
TEARDOWN_SECONDS = 30
# From a job's start until trainings can save a checkpoint: a chosen value, and 60 s that Slurm may
# send its warning too early (`--signal` of sbatch(1)).
START_SECONDS = 60 + 60
_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?")
_CLOCK = re.compile(r"(\d+)(?::(\d+))?(?::(\d+))?")


def seconds_of(text: str, where: str = "--time") -> float:
    """Seconds of a limit in one of Slurm's forms; UNLIMITED and INFINITE are infinite.

    Raises:
        SpecError: it has none of the forms, or is zero.
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return math.inf
    days, clock = _DAYS.fullmatch(text), _CLOCK.fullmatch(text)
    if days is not None:
        d, h, m, s = (int(part or 0) for part in days.groups())
        seconds = ((d * 24 + h) * 60 + m) * 60 + s
    elif clock is not None:
        a, b, c = clock.groups()
        first, second, third = int(a), int(b or 0), int(c or 0)
        seconds = (first * 60 + second) * 60 + third if c is not None else first * 60 + second
    else:
        raise SpecError(f"{where}={text}: is no time limit of Slurm; write it as {FORMS}")
    if seconds == 0:
        raise SpecError(f"{where}={text}: is no time at all; write it as {FORMS}")
    return float(seconds)


def warning_seconds(grace: int) -> int:
    """How long before the limit Slurm warns, for `grace` seconds of saving and the teardown."""
    return grace + TEARDOWN_SECONDS


def check_limit(limit: float, grace: int, *, where: str) -> None:
    """Check that a job trains for a while before Slurm warns it of its limit.

    Raises:
        SpecError: the limit is not above the grace, the teardown and the start.
    """
    needed = warning_seconds(grace) + START_SECONDS
    if limit <= needed:
        raise SpecError(
            f"{where}: a limit of {limit:g} s leaves no time to train: {grace} s are kept for "
            f"saving (grace), {TEARDOWN_SECONDS} s for ending Ray and {START_SECONDS} s for its "
            f"start; ask for more than {math.ceil(needed / 60)} minutes, or for a shorter grace"
        )
