"""What `cola fit` asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.fitting.choices import AnyLaw, Estimator, Kind, Progress
from analysis.fitting.frontier import Frontier
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
    on_group: Callable[[str, pd.DataFrame, Frontier], None] | None = None  # of each fitted group
