"""Time limits in Slurm's forms, and the grace that must fit in them."""

from __future__ import annotations

import math

import pytest

from cola.errors import SpecError
from orchestration.slurm.times import TEARDOWN_SECONDS, check_limit, seconds_of, warning_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 600), ("10:30", 630), ("1:00:00", 3600), ("2-00", 172800), ("1-02:03", 93780),
        ("1-02:03:04", 93784), ("UNLIMITED", math.inf), ("infinite", math.inf),
    ],
)  # fmt: skip
def test_a_limit_is_read_as_slurm_reads_it(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "ten", "1h", "-5", "1:2:3:4", "1.5", "2-", "0", "0:00"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=rf"--time={text}: is no .*minutes:seconds"):
        seconds_of(text)


def test_a_limit_is_above_grace_teardown_and_start() -> None:
    assert warning_seconds(600) == 600 + TEARDOWN_SECONDS
    for limit in (60, 600, 750):
        with pytest.raises(SpecError, match=r"job 7: a limit of .* 600 s are kept for saving"):
            check_limit(limit, 600, where="job 7")
    check_limit(751, 600, where="job 7")
    check_limit(math.inf, 600, where="job 7")
