"""Continuations that change how the end of their context is tokenised, and texts that are cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.data.tokenizer import TextTokenizer, train_bpe
from cola.errors import SpecError
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from tests.factories import tiny_model
from tests.sizes import FAMILIES

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from cola.evaluation.harness import ColaLM

TEXT = "the river finds the lantern under every bridge and the keeper carries a river of rain. "


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_bpe([TEXT], 306)


@pytest.fixture(scope="module")
def models(tokenizer: TextTokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ColaLM]:
    made = {}
    for name in FAMILIES:
        settings = {
            "cola": {"latent_dim": 2, "block_size": 4},
            "embedding_diffusion": {"embedding_dim": 2, "block_size": 4},
        }.get(name, {})
        family, model = tiny_model(name, 30_000, tokenizer.vocab_size, 2.0, **settings)
        folder = tmp_path_factory.mktemp(name)
        family.save(model, folder)
        tokenizer.save(folder, family.name_tokens(folder, tokenizer.eos_token_id))
        steps = 8 if name == "embedding_diffusion" else 1  # its flow ends in points
        made[name] = ColaLM(str(folder), device="cpu", mask_samples=2, ode_steps=steps)
    return made


def request(context: str, continuation: str, kind: str = "loglikelihood") -> Instance:
    made = Instance(kind, {}, (context, continuation), 1, ("joined", 7, 1))  # type: ignore[arg-type]
    return made


def ask(model: ColaLM, context: str, continuation: str) -> tuple[float, bool]:
    return model.loglikelihood([request(context, continuation)], disable_tqdm=True)[0]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("context", "continuation"), [("the riv", "er"), ("a river and the lan", "tern under")]
)
def test_a_merged_continuation_is_scored_from_the_common_prefix(
    name: str,
    context: str,
    continuation: str,
    models: dict[str, ColaLM],
    tokenizer: TextTokenizer,
) -> None:
    joint, alone = tokenizer.encode(context + continuation), tokenizer.encode(context)
    common = next(i for i, (a, b) in enumerate(zip(joint, alone, strict=False)) if a != b)
    assert common < len(alone)  # the continuation changes the context's last tokens
    model = models[name]
    expected = model.evaluated.family.conditional_nll(
        model.evaluated.model,
        [joint[:common]],
        [joint[common:]],
        settings=model.likelihood_settings,
        stream=Stream(0, 0, [0]),
        eos_token_id=tokenizer.eos_token_id,
    )
    found, greedy = ask(model, context, continuation)
    assert found == pytest.approx(-float(expected.nll_B[0]), rel=1e-5)
    assert found < 0
    assert name == "ar" or not greedy


def test_the_parts_of_a_text_add_up_to_the_whole(
    models: dict[str, ColaLM], tokenizer: TextTokenizer
) -> None:
    context, continuation = "the keeper carries the riv", "er of rain"
    model, joint = models["ar"], tokenizer.encode(context + continuation)
    prompt, _ = model._encode_pair(context, continuation)
    whole, begun = (
        -float(
            model.evaluated.family.conditional_nll(
                model.evaluated.model,
                [[]],
                [tokens],
                settings=LikelihoodSpec(),
                stream=Stream(0, 0, [0]),
                eos_token_id=None,
            ).nll_B[0]
        )
        for tokens in (joint, prompt)
    )
    assert ask(model, context, continuation)[0] == pytest.approx(whole - begun, rel=1e-4)


@given(st.data())
def test_any_split_of_a_text_has_its_tokens(
    models: dict[str, ColaLM], tokenizer: TextTokenizer, data: st.DataObject
) -> None:
    text = data.draw(st.text(alphabet="the rivlantn. é", min_size=1, max_size=20))
    place = data.draw(st.integers(0, len(text) - 1))
    context, continuation = text[:place], text[place:]
    prompt, answer = models["ar"]._encode_pair(context, continuation)
    assert prompt + answer == tokenizer.encode(text)
    assert answer
    assert prompt == tokenizer.encode(context.rstrip())[: len(prompt)]


@pytest.mark.parametrize("context", ["the river", "the river ", ""])
def test_an_empty_continuation_is_refused_with_its_item(
    context: str, models: dict[str, ColaLM]
) -> None:
    with pytest.raises(
        SpecError, match="task joined, item 7, loglikelihood 1: the continuation ''"
    ):
        ask(models["ar"], context, "")
    rolling: Any = Instance("loglikelihood_rolling", {}, ("",), 0, ("joined", 7, 1))
    with pytest.raises(SpecError, match=r"task joined, item 7, .* has no tokens"):
        models["ar"].loglikelihood_rolling([rolling], disable_tqdm=True)


def test_what_is_cut_is_counted(models: dict[str, ColaLM]) -> None:
    model = models["llada"]
    whole, model.max_length = model.max_length, 6
    try:
        requests = [request(TEXT, "rain"), request("the", " river")]
        model.loglikelihood(requests, disable_tqdm=True)
        rolling = Instance("loglikelihood_rolling", {}, (TEXT,), 0)
        model.loglikelihood_rolling([rolling], disable_tqdm=True)
        generate = Instance("generate_until", {}, (TEXT, {"max_gen_toks": 2, "steps": 1}), 0)
        model.generate_until([generate], disable_tqdm=True)
    finally:
        model.max_length = whole
    assert model.get_model_info()["cut_to_max_length"] == {
        "likelihood_contexts": 1,
        "generation_prompts": 1,
        "rolling_texts_in_windows": 0,
        "rolling_texts_beyond_length": 1,
    }


def test_base_models_have_no_chat_template(models: dict[str, ColaLM]) -> None:
    model = models["ar"]
    for use in (
        lambda: model.chat_template(True),
        lambda: model.apply_chat_template([{"role": "user", "content": "x"}]),
        lambda: model.tokenizer_name,
    ):
        with pytest.raises(SpecError, match="base models have no chat template"):
            use()
    assert model.chat_template(False) == ""
