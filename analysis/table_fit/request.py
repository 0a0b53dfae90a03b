"""What `cola fit` asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from analysis.fitting.bootstrap import LEVEL
from analysis.fitting.choices import AnyLaw, Estimator, Kind, Progress
from analysis.fitting.constraints import FREE, Constraints
from analysis.fitting.frontier import Frontier
from analysis.profiles.method import Method


@dataclass(frozen=True)
class Serving:
    """Tokens that a model is to serve over its life, and at what price.

    mfu, serving_mfu: shares of the devices' peak that training and serving reach (None: as
    training). peak: FLOP/s of a device. price: of a device-hour.
    """

    tokens: float
    mfu: float = 1.0
    serving_mfu: float | None = None
    peak: float | None = None
    price: float | None = None

    @property
    def rate(self) -> float:
        """Share of the peak that serving reaches."""
        return self.mfu if self.serving_mfu is None else self.serving_mfu


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
    constraints: Constraints = FREE
    share: tuple[str, ...] = ()
    serving: Serving | None = None
    hold_out: float | None = None  # C from which rows are predicted, not fitted
    start: float | Literal["auto"] | None = None  # C from which rows are fitted
    usual: bool = False  # the law was not asked for
    level: float = LEVEL  # share that intervals are to hold
    on_group: Callable[[str, pd.DataFrame, Frontier], None] | None = None  # of each fitted group

    @property
    def replaceable(self) -> bool:
        """Whether a law that predicts better may take the usual one's place: not where constraints
        or a window were asked for, which are of the law that has their names."""
        held = self.constraints or self.share or self.start == "auto"
        return self.usual and not held
