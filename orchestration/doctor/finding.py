"""What a check of an environment found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One check: `remedy` says what to do where it is not ok."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
