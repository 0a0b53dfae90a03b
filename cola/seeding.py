"""Randomness as an argument: streams keyed by the sample and purpose, never by the worker."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Stream:
    """Random draws for one batch, a function of (seed, step, sample id, purpose) only.

    A sample's numbers do not depend on its batch or worker. They are drawn on the CPU in float32
    and moved to `device`.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        sample_ids: Sequence[int],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.seed, self.step = seed, step
        self.sample_ids = [int(sample) for sample in sample_ids]
        self.device = torch.device(device)

    def of(self, rows: Sequence[int]) -> Stream:
        """The stream of some of the batch's samples."""
        return Stream(
            self.seed, self.step, [self.sample_ids[row] for row in rows], device=self.device
        )

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """N(0, 1) of shape (samples, *shape)."""
        return self._draw_per_sample(purpose, lambda g: torch.randn(shape, generator=g))

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """U[0, 1) of shape (samples, *shape)."""
        return self._draw_per_sample(purpose, lambda g: torch.rand(shape, generator=g))

    def shared_uniform(self, purpose: str) -> float:
        """One U[0, 1) number for the whole global batch of this step."""
        generator = _generator(self.seed, self.step, "shared", purpose)
        return float(torch.rand((), generator=generator))

    def _draw_per_sample(self, purpose: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        drawn = [
            draw(_generator(self.seed, self.step, sample, purpose)) for sample in self.sample_ids
        ]
        return torch.stack(drawn).to(self.device)


class SeededRows(Stream):
    """Draws for rows that have seeds of their own: row i gets those of a `Stream` with `seeds[i]`
    and `sample_ids[i]`, whatever other rows there are."""

    def __init__(
        self,
        seeds: Sequence[int],
        sample_ids: Sequence[int],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(0, 0, sample_ids, device=device)
        self.seeds = list(seeds)

    def of(self, rows: Sequence[int]) -> SeededRows:
        """See `Stream.of`."""
        return SeededRows(
            [self.seeds[row] for row in rows],
            [self.sample_ids[row] for row in rows],
            device=self.device,
        )

    def shared_uniform(self, purpose: str) -> float:
        """Refused: rows of several seeds have no number in common."""
        raise TypeError("rows with seeds of their own share no draw")

    def _draw_per_sample(self, purpose: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        drawn = [
            draw(_generator(seed, self.step, sample, purpose))
            for seed, sample in zip(self.seeds, self.sample_ids, strict=True)
        ]
        return torch.stack(drawn).to(self.device)


def _generator(*key: object) -> torch.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator
