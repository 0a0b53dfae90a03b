"""The result of one check of an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """A check's verdict, the detail behind it, and what to do where it is not ok."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""
