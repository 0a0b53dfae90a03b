"""What is kept of the draws behind each prompt: scores and probabilities of the text's own tokens.

B prompts, M draws, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cola.evaluation.predictive_scores import (
    GRAMS,
    brier_of_draws,
    by_draws,
    chain_rule,
    log_mean_exp,
)
from cola.families.interface.family import NextTokens, PredictiveDraws


@dataclass(frozen=True)
class DrawnBatch:
    """All draws of a batch of prompts, as arrays, and the exact predictions where there are any."""

    tokens_BMN: np.ndarray
    marginal_BMN: np.ndarray | None
    joint_BMN: np.ndarray | None
    best_BN: np.ndarray | None  # most probable tokens of the mixture
    in_order: bool
    exact: NextTokens | None

    @classmethod
    def of(cls, parts: Sequence[PredictiveDraws], exact: NextTokens | None) -> DrawnBatch:
        """Parts that have some of the draws each, in their order."""

        def joined(values: Sequence[Tensor | None]) -> np.ndarray | None:
            known = [value for value in values if value is not None]
            return torch.cat(known, 1).cpu().numpy() if known else None

        sums = [part.probability_BNV for part in parts if part.probability_BNV is not None]
        best = torch.stack(sums).sum(0).argmax(-1).cpu().numpy() if sums else None
        tokens = torch.cat([part.tokens_BMN for part in parts], 1).cpu().numpy()
        return cls(
            tokens,
            joined([part.marginal_BMN for part in parts]),
            joined([part.joint_BMN for part in parts]),
            best,
            parts[0].in_order,
            exact,
        )

    def record(self, row: int, truth_N: np.ndarray) -> dict[str, Any]:
        """What is kept of a prompt."""
        drawn_MN, count = self.tokens_BMN[row], len(truth_N)
        best_N = most_frequent(drawn_MN) if self.best_BN is None else self.best_BN[row]
        record: dict[str, Any] = {
            "brier": [brier_of_draws(drawn_MN[:, :n], truth_N[:n]) for n in GRAMS[:count]],
            "brier_by_place": [
                brier_of_draws(drawn_MN[:, i : i + 1], truth_N[i : i + 1]) for i in range(count)
            ],
            "draw_right": (drawn_MN == truth_N).mean(0).tolist(),
            "mixture_right": (best_N == truth_N).astype(int).tolist(),
        }
        if self.marginal_BMN is not None:
            record["marginal_nll"] = (-log_mean_exp(self.marginal_BMN[row])).tolist()
        return record | self._likelihood(row) | self._exact(row, truth_N)

    def _likelihood(self, row: int) -> dict[str, Any]:
        """-log p of the text's tokens together; nothing where the family gives none."""
        if self.exact is not None:
            nll_N = (-self.exact.log_p_BN[row]).tolist()
            return {"kind": "exact", "nll": sum(nll_N), "nll_by_place": nll_N}
        if self.joint_BMN is None:
            return {}
        joint_MN = self.joint_BMN[row]
        bounds = by_draws(joint_MN.sum(1))
        by_place = chain_rule(joint_MN) if self.in_order else None
        return {
            "kind": "bound",
            "nll": bounds[len(joint_MN)],
            "nll_by_place": by_place,
            "nll_by_draws": {str(count): value for count, value in bounds.items()},
        }

    def _exact(self, row: int, truth_N: np.ndarray) -> dict[str, Any]:
        if self.exact is None:
            return {}
        right_N = (self.exact.best_BN[row].cpu().numpy() == truth_N).astype(int)
        return {"exact": {"brier": self.exact.brier_BN[row].tolist(), "right": right_N.tolist()}}


def most_frequent(drawn_MN: np.ndarray) -> np.ndarray:
    """The token that most draws have at each place, the lowest of several."""
    return np.array([np.bincount(drawn_M).argmax() for drawn_M in drawn_MN.T])
