"""Prompts and their continuations as one padded batch, and draws that padding does not change.

B batch, L tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.seeding import Stream


@dataclass(frozen=True)
class PaddedPairs:
    """Every prompt followed by its continuation, padded on the right.

    tokens_BL: (B, L) int64. start_B, end_B: (B,) int64, the continuation's first position and the
    one behind its last.
    """

    tokens_BL: Tensor
    start_B: Tensor
    end_B: Tensor

    def real(self) -> Tensor:
        """(B, L), False at the padding."""
        position_L = torch.arange(self.tokens_BL.shape[1], device=self.tokens_BL.device)
        return position_L < self.end_B[:, None]

    def continuation(self) -> Tensor:
        """(B, L), True at the continuation."""
        position_L = torch.arange(self.tokens_BL.shape[1], device=self.tokens_BL.device)
        return (position_L >= self.start_B[:, None]) & (position_L < self.end_B[:, None])


def pad_pairs(
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    pad: int,
    *,
    device: torch.device,
    multiple: int = 1,
) -> PaddedPairs:
    """The pairs as one batch; L is a positive multiple of `multiple`."""
    texts = [[*left, *right] for left, right in zip(prompts, continuations, strict=True)]
    longest = max(1, *(len(text) for text in texts))
    tokens_BL = torch.full((len(texts), -(-longest // multiple) * multiple), pad)
    for row, text in enumerate(texts):
        tokens_BL[row, : len(text)] = torch.tensor(text, dtype=torch.long)
    start_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    end_B = torch.tensor([len(text) for text in texts], device=device)
    return PaddedPairs(tokens_BL.to(device), start_B, end_B)


class RaggedStream(Stream):
    """Draws for rows of unequal length: each row's numbers are those it would get alone.

    `lengths[i]` is the length of row i along the first axis of a draw; zeros follow behind it.
    """

    def __init__(self, stream: Stream, lengths: Sequence[int]) -> None:
        super().__init__(stream.seed, stream.step, stream.sample_ids, device=stream.device)
        self._lengths = list(lengths)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """N(0, 1) of shape (samples, *shape), zero behind a row's length."""
        return self._padded(shape, lambda alone, own: alone.normal(purpose, *own))

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """U[0, 1) of shape (samples, *shape), zero behind a row's length."""
        return self._padded(shape, lambda alone, own: alone.uniform(purpose, *own))

    def _padded(
        self, shape: tuple[int, ...], draw: Callable[[Stream, tuple[int, ...]], Tensor]
    ) -> Tensor:
        plain = self.of(range(len(self._lengths)))  # `of` returns streams that do not pad
        filled = torch.zeros(len(self._lengths), *shape, device=self.device)
        for row, length in enumerate(self._lengths):
            filled[row, :length] = draw(plain.of([row]), (length, *shape[1:]))[0]
        return filled
