"""How a table counts compute: C as a multiple of N D."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

EXACT = 0.02  # C / (6 N D) within 2% of 1 is the usual convention


@dataclass(frozen=True)
class Convention:
    """C = factor N D in this table; spread: the largest relative deviation of a row from it."""

    factor: float
    spread: float

    @property
    def usual(self) -> bool:
        """Whether C = 6 N D."""
        return abs(self.factor / 6 - 1) < EXACT and self.spread < EXACT

    def __str__(self) -> str:
        return f"C = {self.factor:.3g} N D (rows within {self.spread:.0%})"


def convention_of(rows: pd.DataFrame) -> Convention | None:
    """How the table counts compute; None where it does not know all of C, N and D."""
    if not {"parameters", "tokens"} <= set(rows.columns):
        return None
    columns = [np.log(rows[n].to_numpy(float)) for n in ("compute", "parameters", "tokens")]
    logs = columns[0] - columns[1] - columns[2]
    middle = float(np.median(logs))
    return Convention(float(np.exp(middle)), float(np.expm1(np.abs(logs - middle).max())))
