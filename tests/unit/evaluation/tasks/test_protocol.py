"""Settings mean the same in each family, and a result says how its answers were made."""

from __future__ import annotations

import numpy as np
import pytest

from cola.data import TextTokenizer
from cola.evaluation.tasks.unconditional import UnconditionalTask
from cola.families.registry import definition_of
from cola.spec import GenerationSpec
from tests.factories import tiny_model
from tests.sizes import FAMILIES, SMALL, size_model


def test_texts_from_nothing_are_drawn_alike_by_all_families(
    tokenizer: TextTokenizer, held_out: np.ndarray
) -> None:
    greedy = GenerationSpec(max_new_tokens=8, steps=4, top_p=0.5, guidance_scale=7.0)
    drawn = UnconditionalTask(held_out, tokenizer, greedy, seed=0).settings
    said = {name: definition_of(name).protocol(drawn) for name in ("ar", "llada", "cola")}
    assert {protocol.kind for protocol in said.values()} == {"draw"}
    assert {name: protocol.text for name, protocol in said.items()} == {
        "ar": "tokens drawn at temperature 1",
        "llada": "tokens drawn at temperature 1; 1 token a pass, in random order",
        "cola": "latents drawn without guidance in 4 steps of euler; tokens drawn at temperature 1",
    }


def test_at_temperature_0_a_family_of_latents_still_draws() -> None:
    said = {
        name: definition_of(name).protocol(GenerationSpec()) for name in ("ar", "llada", "cola")
    }
    assert {name: protocol.kind for name, protocol in said.items()} == {
        "ar": "mode", "llada": "mode", "cola": "draw"
    }  # fmt: skip
    assert "with guidance 3" in said["cola"].text
    random = GenerationSpec(remasking="random", tokens_per_pass=3, top_k=4, unmasking_block=8)
    assert definition_of("llada").protocol(random).kind == "draw"
    assert definition_of("llada").protocol(random).text == (
        "the most probable token; 3 tokens a pass, in random order, in blocks of 8"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_s_flops_a_token_are_those_of_its_specification(name: str) -> None:
    family, model = tiny_model(name, 60_000, 300, **SMALL.get(name, {}))
    spec = size_model(name, 60_000, 300, **SMALL.get(name, {}))
    found = family.sizes_of(model)
    if found is None:
        pytest.skip("the family gives no sizes")
    assert found == spec
