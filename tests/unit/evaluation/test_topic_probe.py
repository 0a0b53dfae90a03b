"""Probes of hidden topics on latents that hold them, and on latents that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cola.evaluation.topic_probe import block_topics, topic_probe
from cola.hidden_topics.documents import documents
from cola.hidden_topics.source import ALPHABET
from cola.spec.data import GeneratedText

SOURCE = GeneratedText(documents=64, document_tokens=1024, symbols=16, topics=4, topic_tokens=128)
LENGTH, SIZE = 128, 16


@pytest.fixture(scope="module")
def tokens_BL() -> Tensor:  # noqa: N802
    place = {letter: index + 1 for index, letter in enumerate(ALPHABET)}
    rows = [text[:LENGTH] for text in documents(SOURCE) if len(text) >= LENGTH][:48]
    return torch.tensor([[place[letter] for letter in row] for row in rows])


def test_latents_that_are_topics_are_told_and_lie_side_by_side(tokens_BL: Tensor) -> None:
    topics_Bb = block_topics(tokens_BL, LENGTH // SIZE, SOURCE)
    means_Bbd = torch.nn.functional.one_hot(topics_Bb, 4).float()
    means_Bbd = means_Bbd + 0.05 * torch.randn(means_Bbd.shape, generator=_generator())
    found = topic_probe(means_Bbd, tokens_BL, SOURCE)
    assert found["accuracy"] > 0.98
    assert found["neighbour"] > 0.98
    assert found["from_tokens"] > found["majority"] + 0.2
    assert found["standard_error"] < 0.02


def test_latents_of_noise_are_told_no_better_than_by_guessing(tokens_BL: Tensor) -> None:
    means_Bbd = torch.randn(len(tokens_BL), LENGTH // SIZE, 4, generator=_generator())
    found = topic_probe(means_Bbd, tokens_BL, SOURCE)
    assert found["accuracy"] < found["majority"] + 4 * found["standard_error"]
    assert found["neighbour"] == pytest.approx(0.25, abs=0.15)


def test_topics_of_blocks_are_those_the_text_was_drawn_with(tokens_BL: Tensor) -> None:
    """Symbols of a block cost least under the chain of its topic, where it holds one topic."""
    from cola.hidden_topics.source import hidden_topics

    blocks_NS = tokens_BL.view(-1, SIZE).numpy() - 1
    with np.errstate(divide="ignore"):
        logs_KSS = np.log(hidden_topics(SOURCE).next_KSS)
    cost_NK = -logs_KSS[:, blocks_NS[:, :-1], blocks_NS[:, 1:]].sum(-1).T
    best_N = cost_NK.argmin(1)
    topics_N = block_topics(tokens_BL, LENGTH // SIZE, SOURCE).flatten().numpy()
    assert (best_N == topics_N).mean() > 0.85


def test_one_topic_is_not_probed(tokens_BL: Tensor) -> None:
    one = SOURCE.model_copy(update={"topics": 1})
    assert topic_probe(torch.zeros(len(tokens_BL), 8, 2), tokens_BL, one) == {}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
