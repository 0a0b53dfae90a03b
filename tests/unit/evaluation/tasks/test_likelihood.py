"""Three families' likelihoods in one frame."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.likelihood import LikelihoodTask
from cola.objectives.next_token import token_nll
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from tests.sizes import FAMILIES

SETTINGS = LikelihoodSpec(mask_samples=3, ode_steps=2)


@pytest.mark.parametrize("name", FAMILIES)
def test_positions_add_up(
    name: str, evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray
) -> None:
    task = LikelihoodTask(held_out[:5], np.full(5, 70), SETTINGS, seed=0)
    records = dict(task.answer(evaluated_models[name], task.ids(), 3))
    for record in records.values():
        assert sum(record["by_position"]) == pytest.approx(record["nll"], rel=1e-9)
    found = task.summary(records)
    nats = [record["nll"] for record in records.values()]
    assert found.metrics["nll_nats_per_token"] == pytest.approx(np.mean(nats) / 32)
    assert found.metrics["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / 350)
    assert found.metrics["nll_standard_error"] == pytest.approx(np.std(nats, ddof=1) / 5**0.5 / 32)
    # Two steps are too few for a flow that ends at embeddings.
    kinds = {"ar": "exact", "embedding_diffusion": "estimate"}
    assert found.details["kind"] == kinds.get(name, "bound")
    # Flows: nodes of 2 and of 4 steps, a look ahead in each, the bound at 8 times and the first.
    solved = 3 + 5 + 6 + 9
    evaluations = {"ar": 1, "llada": 3, "cola": solved, "bd3lm": 3, "embedding_diffusion": solved}
    expected = evaluations[name]
    assert found.metrics["function_evaluations"] == expected
    assert len(found.details["nll_by_position"]) == 32


def test_ar_positions_are_its_tokens(
    evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray
) -> None:
    task = LikelihoodTask(held_out[:2], np.full(2, 70), SETTINGS, seed=0)
    record = dict(task.answer(evaluated_models["ar"], [1], 1))[1]
    with torch.no_grad():
        expected = token_nll(evaluated_models["ar"].model, torch.from_numpy(held_out[1:2]))[0]
    np.testing.assert_allclose(record["by_position"], expected, rtol=1e-5)


def test_the_chain_rule_is_exact_and_costs_a_pass_a_token(
    evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray
) -> None:
    settings = SETTINGS.model_copy(update={"masked": "chain_rule"})
    task = LikelihoodTask(held_out[:2], np.full(2, 70), settings, seed=0)
    records = dict(task.answer(evaluated_models["llada"], task.ids(), 2))
    found = task.summary(records)
    assert found.details["kind"] == "exact"
    assert found.metrics["function_evaluations"] == 32
    assert sum(records[0]["by_position"]) == pytest.approx(records[0]["nll"])


def test_cola_spreads_a_block_over_its_tokens(
    evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray
) -> None:
    evaluated = evaluated_models["cola"]
    tokens = torch.from_numpy(held_out[:2])
    found = evaluated.family.likelihood(
        evaluated.model, tokens, SETTINGS, stream=Stream(0, 0, [0, 1])
    )
    assert found.by_position_BL is not None
    blocks = found.by_position_BL.unflatten(1, (-1, 8))
    assert torch.equal(blocks, blocks[..., :1].expand_as(blocks))
    assert len(set(blocks[0, :, 0].tolist())) == 4
    weighted = LikelihoodSpec(importance_samples=2, divergence="exact", ode_steps=1)
    found = evaluated.family.likelihood(
        evaluated.model, tokens, weighted, stream=Stream(0, 0, [0, 1])
    )
    assert found.by_position_BL is None
    assert evaluated.family.likelihood_evaluations(evaluated.model, weighted, 32) == 2 * (2 + 3 + 3)
