"""What a sweep measures of a finished model with a point's settings."""

from __future__ import annotations

import numpy as np
import torch

from cola.data import PreparedData
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.study.run import EvaluationSpec
from sweeps.trials.measure import continuation_metrics
from tests.factories import tiny_model


def test_continuations_are_measured_by_the_remainder_of_a_length(data: PreparedData) -> None:
    family, model = tiny_model("ar", 60_000, 320, 2.0)
    evaluated = EvaluatedModel(family, model, data.tokenizer, 32, torch.device("cpu"))
    rows_NL = data.validation.rows(np.arange(6))
    values = {"prompt_tokens": 8, "generation": {"max_new_tokens": 4}}
    plain, found = (
        continuation_metrics(evaluated, rows_NL, EvaluationSpec.parse(values | more))
        for more in ({}, {"prompt_remainders": 2})
    )
    whole = plain["continuation/token_accuracy"]
    assert found["continuation/token_accuracy"] == whole
    assert found["continuation/accuracy_at_remainder_0"] == whole
    gain = whole - found["continuation/accuracy_at_remainder_1"]
    assert abs(found["continuation/accuracy_gain_divisible_by_2"] - gain) < 1e-12
    assert not any("remainder" in name for name in plain)
