"""The three families behind one interface."""

from cola.families.base import (
    Batch,
    Conditional,
    Family,
    Likelihood,
    StageModule,
    count_parameters,
    family_of,
)

__all__ = [
    "Batch",
    "Conditional",
    "Family",
    "Likelihood",
    "StageModule",
    "count_parameters",
    "family_of",
]
