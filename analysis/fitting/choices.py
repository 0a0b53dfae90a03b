"""Names that a user chooses from, apart from what they stand for: every command loads them.

Tests compare them with the tables that have the rest (`laws.LAWS`, `estimate.ESTIMATORS`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Law = Literal[
    "chinchilla", "tied", "outer", "equal", "repeated", "compute", "compute-power", "broken"
]
AnyLaw = Literal[Law, "isoflop", "optima", "power", "annealing", "auto"]  # of `cola fit`
Estimator = Literal["huber", "least-squares", "huber-density", "variable-projection"]
Kind = Literal["runs", "residuals"]  # what a refit draws
Progress = Callable[[int, int], None]  # refits done, refits in all
Setting = Literal["learning_rate", "batch_tokens"]  # rules of a study that a fit can make
