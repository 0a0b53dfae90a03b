"""Tiny models of every family with a tokenizer, and text that nobody trained on."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from cola.data import TextTokenizer
from cola.data.tokenizer import train_bpe
from cola.evaluation.models.evaluated_model import EvaluatedModel
from tests.factories import tiny_model
from tests.sizes import FAMILIES, SMALL, TINY_CORE

LENGTH, VOCAB = 32, 320


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Documents of short sentences with few nouns, which hence come again."""
    draw = random.Random(0)
    nouns = ["river", "lamp", "garden", "letter", "engine", "window", "captain", "mirror"]
    verbs = ["finds", "opens", "follows", "paints", "repairs", "remembers"]
    return [
        " ".join(
            f"The {draw.choice(nouns)} {draw.choice(verbs)} the {draw.choice(nouns)}."
            for _ in range(12)
        )
        for _ in range(60)
    ]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> TextTokenizer:
    return train_bpe(texts, VOCAB)


@pytest.fixture(scope="session")
def held_out(texts: list[str], tokenizer: TextTokenizer) -> np.ndarray:
    """20 packed sequences of 32 tokens, ends of text between the documents."""
    flat = [token for text in texts for token in [*tokenizer.encode(text), tokenizer.eos_token_id]]
    return np.array(flat[: 20 * LENGTH], dtype=np.int64).reshape(20, LENGTH)


@pytest.fixture(scope="session")
def evaluated_models(tokenizer: TextTokenizer) -> dict[str, EvaluatedModel]:
    """Untrained models whose logits are not flat, by family."""
    found = {}
    for name in FAMILIES:
        family, model = tiny_model(name, TINY_CORE[name], VOCAB, 2.0, **SMALL.get(name, {}))
        found[name] = EvaluatedModel(family, model, tokenizer, LENGTH, torch.device("cpu"))
    return found
