"""How many texts a reference judges, and of how much held-out text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cola.evaluation.mauve import COMPARABLE
from cola.evaluation.tasks.unconditional import pieces
from cola.study import EvaluationSpec
from orchestration.inference.evaluate import EvaluationRequest, sequences_for


def request(**values: Any) -> EvaluationRequest:
    settings = EvaluationSpec.parse({"generation": {"max_new_tokens": 24}})
    return EvaluationRequest(settings, 0, values.pop("reference", None), (), **values)


def nobody() -> Any:
    raise AssertionError("no model is opened to count texts")


@pytest.mark.parametrize(
    ("given", "texts", "sequences"),
    [
        ({}, None, 0),
        ({"reference": nobody, "limited": True}, None, 0),  # the number of items was asked for
        ({"reference": nobody}, COMPARABLE, 200),  # five texts of 24 tokens in 128
        ({"features": nobody}, COMPARABLE, 200),
    ],
)
def test_a_thousand_texts_are_judged_unless_items_are_asked_for(
    given: dict[str, Any], texts: int | None, sequences: int
) -> None:
    asked = request(**given)
    assert (asked.judges.texts, sequences_for(asked, 128)) == (texts, sequences)


def test_beginnings_of_sequences_come_first() -> None:
    rows = np.arange(20).reshape(2, 10)
    assert pieces(rows, 4, 3).tolist() == [[0, 1, 2, 3], [10, 11, 12, 13], [4, 5, 6, 7]]
    assert pieces(rows, 4, None).tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert len(pieces(rows, 4, 100)) == 4  # what the text gives; a rest of 2 tokens is no piece
