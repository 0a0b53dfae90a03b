"""What a prior takes from the text before: priors that are known, with the true history or not."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cola.objectives.history import TIMES, block_means, history_gap
from cola.seeding import Stream

ROWS, BLOCKS, SIZE, WIDTH, SPREAD = 256, 3, 4, 2, 0.5


@dataclass(frozen=True)
class KnownTopic:
    """Texts of one token over and over: its latents are Gaussian around (-1, -1) or (1, 1).

    The prior's velocity is the exact one, of the token that the history says; `listens` False: of
    both, each as likely, whatever the history says.
    """

    listens: bool = True
    sees_tokens: bool = False
    tokens_per_block: int = SIZE

    @property
    def dit(self) -> Any:
        """The velocity, which keeps of a history the sign of its first block."""
        return SimpleNamespace(
            config=SimpleNamespace(block_size=SIZE),
            clean_history=lambda past_Bnd: past_Bnd[:, :SIZE].mean((1, 2)).sign(),
            noisy_pass=self._velocity,
        )

    def _velocity(self, z_Bnd: Tensor, t_BK: Tensor, history_B: Tensor) -> Tensor:
        t = float(t_BK[0, 0])
        variance = (1 - t) ** 2 * SPREAD**2 + t**2
        slope = (t - (1 - t) * SPREAD**2) / variance
        says_B = history_B if self.listens else torch.zeros_like(history_B)
        mean_B11 = says_B[:, None, None]
        return slope * (z_Bnd - (1 - t) * mean_B11) - mean_B11

    @property
    def codec(self) -> Any:
        """Token 0 is -1, token 1 is 1, with noise of `SPREAD`."""

        def encoder(tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
            mean = (2.0 * tokens_BL - 1)[..., None].expand(-1, -1, WIDTH)
            return mean, torch.full_like(mean, 2 * torch.tensor(SPREAD).log().item())

        return SimpleNamespace(encoder=encoder)

    def to_dit(self, z: Tensor) -> Tensor:
        """As it is."""
        return z

    def as_history(self, z_Bnd: Tensor, tokens_BL: Tensor) -> Tensor:
        """The latents."""
        return z_Bnd


def found(model: Any, tokens_BL: Tensor) -> dict[str, float]:
    return history_gap(model, tokens_BL, Stream(3, 0, range(len(tokens_BL))))


@pytest.fixture(scope="module")
def alternating() -> Tensor:
    """Each text is of the other token than the one before it."""
    return (torch.arange(ROWS) % 2)[:, None].expand(-1, BLOCKS * SIZE)


@pytest.mark.parametrize("part", ["", "late_"])
def test_another_texts_history_costs_what_the_wrong_mean_costs(
    alternating: Tensor, part: str
) -> None:
    """The velocity's mean is off by t / ((1 - t)^2 s^2 + t^2) times the means' distance, 2."""
    gaps = found(KnownTopic(), alternating)
    for t in TIMES:
        wanted = (2 * t / ((1 - t) ** 2 * SPREAD**2 + t**2)) ** 2
        error = gaps[f"{part}history_gap_error_at_time/{t}"]
        assert gaps[f"{part}history_gap_at_time/{t}"] == pytest.approx(wanted, abs=4 * error)
        assert 0 < error < 0.2 * wanted


def test_a_prior_that_does_not_listen_has_no_gap(alternating: Tensor) -> None:
    gaps = found(KnownTopic(listens=False), alternating)
    assert gaps == dict.fromkeys(gaps, 0.0)


def test_one_text_or_one_block_has_no_other_history(alternating: Tensor) -> None:
    assert found(KnownTopic(), alternating[:1]) == {}
    assert found(KnownTopic(), alternating[:, :SIZE]) == {}


def test_a_blocks_mean_is_that_of_its_latents() -> None:
    tokens = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    assert block_means(KnownTopic(), tokens)[0, :, 0].tolist() == [0.0, 1.0]
