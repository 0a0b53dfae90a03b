"""MAUVE with its interval, and features of a model of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cola.errors import SpecError
from cola.evaluation.mauve import COMPARABLE, mauve, of_halves
from cola.evaluation.models.features import FeatureModel


def features(count: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """Of a made-up source with three heaps in four dimensions."""
    random = np.random.default_rng(seed)
    heaps = random.normal(0, 1, (count, 4)) + 3.0 * np.eye(4)[random.integers(3, size=count)]
    return np.asarray(heaps + shift, dtype=np.float32)


def test_two_halves_of_one_source_are_alike() -> None:
    found = of_halves(features(2 * COMPARABLE))
    assert found is not None
    low, high = found.interval
    assert found.value >= 0.95  # of 100 clusters of 20 texts each 0.953 is expected
    assert low < 0.95 < high
    assert found.note == ""


def test_other_texts_are_told_apart_and_few_are_said() -> None:
    found = mauve(features(200), features(200, 2.0, seed=1))
    assert found.interval[1] < 0.9
    assert "of 200 texts" in found.note
    with pytest.raises(ValueError, match="needs 50"):
        mauve(features(40), features(400))
    assert of_halves(features(99)) is None


def test_a_folders_model_represents_a_text_by_its_last_state(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    from cola.data.tokenizer import train_bpe

    texts = ["The lamp is lit.", "A river", "The lamp and the river and the garden are dark."]
    tokenizer = train_bpe(texts, 270)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_positions=32, n_embd=8, n_layer=1, n_head=1)
    GPT2Model(config).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend).save_pretrained(tmp_path)
    model = FeatureModel.open(tmp_path)
    found = model.features(texts)
    alone = np.concatenate([model.features([text]) for text in texts])
    np.testing.assert_allclose(found, alone, atol=1e-5)
    own = GPT2Model.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        states = own(torch.tensor([tokenizer.encode(texts[1])])).last_hidden_state
    np.testing.assert_allclose(found[1], states[0, -1].numpy(), atol=1e-5)
    with pytest.raises(SpecError, match=r"holds no config\.json"):
        FeatureModel.open(tmp_path / "nothing")
