"""What a job's process makes of Slurm's signals and of the driver's end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cola.errors import SpecError
from orchestration.slurm.job import Work, allocation, outcome, own_node, reason_to_leave

WORK = Work("tiny.yaml", "study", "tiny", Path("/out"), 600, 2, ["--num-cpus=2"])


def test_each_signal_has_one_meaning() -> None:
    assert reason_to_leave(signal.SIGUSR1, lambda: "cancelled") == "limit"
    assert reason_to_leave(signal.SIGUSR2, lambda: "cancelled") == "stop"
    assert reason_to_leave(signal.SIGINT, lambda: "cancelled") == "stop"
    assert reason_to_leave(signal.SIGTERM, lambda: "cancelled") == "cancelled"
    assert reason_to_leave(signal.SIGTERM, lambda: "preempted") == "preempted"


@pytest.mark.parametrize(
    ("code", "leave", "may_return", "state"),
    [
        (0, None, True, "succeeded"),
        (0, "limit", True, "succeeded"),  # it had finished before it could leave
        (130, "limit", True, "queued again"),
        (130, "limit", False, "failed"),
        (130, "preempted", True, "queued again"),
        (130, "requeued", True, "queued again"),
        (130, "cancelled", True, "stopped"),
        (130, "stop", True, "stopped"),
        (1, None, True, "failed"),
        (4, None, True, "failed"),
    ],
)
def test_a_job_returns_after_a_warning_or_a_preemption_alone(
    code: int, leave: str | None, may_return: bool, state: str
) -> None:
    assert outcome(code, leave, may_return)[0] == state  # type: ignore[arg-type]


def test_the_driver_joins_an_explicit_address() -> None:
    command = WORK.command("10.0.0.1:41000")
    assert command[1:] == ["run", "tiny.yaml", "--address", "10.0.0.1:41000"]
    sweep = Work("s.yaml", "sweep", "s", Path("/out"), 600, 2, [])
    assert sweep.command("h:1")[1:] == ["sweep", "run", "s.yaml", "--address", "h:1"]


def test_outside_of_a_job_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(SpecError, match=r"SLURM_JOB_ID: is not set, so this is no job of Slurm"):
        allocation()


def test_a_node_is_known_by_slurms_name() -> None:
    assert own_node({"SLURMD_NODENAME": "n7"}) == "n7"
    assert "." not in own_node({})
