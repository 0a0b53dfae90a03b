"""What `cola fit` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.fitting.choices import AnyLaw, Estimator, Kind, Progress
from analysis.profiles.method import Method


@dataclass(frozen=True)
class Request:
    """The options of the command."""

    law: AnyLaw
    estimator: Estimator
    samples: int
    seed: int
    kind: Kind | None
    predict: tuple[Mapping[str, float], ...]
    chance: float = 0.0
    minimum: Method = "parabola"
    progress: Progress | None = None
