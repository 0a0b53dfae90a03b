"""How the minimum of an IsoFLOP profile is found, by name: every command loads it."""

from __future__ import annotations

from typing import Literal

Method = Literal["parabola", "akima"]
