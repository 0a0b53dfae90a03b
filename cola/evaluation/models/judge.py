"""A reference model that judges texts: how likely it finds them, and how it represents them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cola.errors import SpecError
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.families.registry import definition_of, judges

ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Judged:
    """Of N texts: nll_N in nats, tokens_N of the reference's tokenizer, features_Nd (the last
    hidden state behind the last token, as MAUVE takes them)."""

    nll_N: np.ndarray
    tokens_N: np.ndarray
    features_Nd: np.ndarray

    @property
    def nats_per_token(self) -> float:
        """Mean over all tokens; its exponential is the generative perplexity."""
        return float(self.nll_N.sum() / self.tokens_N.sum())


class Reference:
    """A model with an exact likelihood, by a name that results tell."""

    def __init__(self, name: str, evaluated: EvaluatedModel) -> None:
        """Take over the model.

        Raises:
            SpecError: when it cannot judge.
        """
        check_can_judge(name, evaluated.family.name)
        self.name, self._evaluated = name, evaluated

    def judge(self, texts: Sequence[str]) -> Judged:
        """Judge texts that are not empty.

        Raises:
            ValueError: for an empty text.
        """
        rows = [self._evaluated.tokenizer.encode(text) for text in texts]
        if not all(rows):
            raise ValueError("an empty text has no likelihood")
        return self.judge_tokens(rows)

    @torch.no_grad()
    def judge_tokens(self, rows: Sequence[Sequence[int]]) -> Judged:
        """Judge texts that are not empty, given as tokens of the reference's own tokenizer."""
        parts = [
            self._judged(rows[start : start + ROWS_AT_ONCE])
            for start in range(0, len(rows), ROWS_AT_ONCE)
        ]
        nll, features = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Judged(nll, np.array([len(row) for row in rows]), features)

    def _judged(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        evaluated = self._evaluated
        nll_N, features_Nd = evaluated.family.judge(evaluated.model, rows, evaluated.device)
        return nll_N.cpu().numpy(), features_Nd.cpu().numpy()


def check_can_judge(name: str, family: str) -> None:
    """Raise a `SpecError` for a model without an exact likelihood of one pass."""
    if not definition_of(family).exact_in_one_pass:
        raise SpecError(
            f"--reference {name}: is of family {family}; texts are judged by an exact likelihood, "
            f"so give a model of family {' or '.join(judges())}"
        )
