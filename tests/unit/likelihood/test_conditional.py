"""Likelihoods of continuations given prompts, against independent references."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from cola.families.ar.spec import ARModelSpec
from cola.families.interface.family import Conditional, Family
from cola.families.llada.spec import LLaDAModelSpec
from cola.families.registry import family_of
from cola.likelihood.masked_bound import masked_samples
from cola.models.transformer import LLaDAModel
from cola.records import SOLVER_DIFFERENCE, nll_kind_of
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from tests.sizes import FAMILIES, size_model
from tests.unit.likelihood.sums import conditional_evidence, evidence_bound

VOCAB, BLOCK, EOS = 30, 4, 29
PROMPTS = [[5, 6, 7], [], list(range(9)), [1, 2, 3, 4]]
CONTINUATIONS = [[8, 9], [1, 2, 3, 4, 5], [4], [5, 6, 7, 8]]
SETTINGS = LikelihoodSpec(mask_samples=3, ode_steps=2)


def sharpened(model: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)
    return model.eval()


def built(name: str, patch_size: int = 1) -> tuple[Family, nn.Module]:
    torch.manual_seed(0)
    options = {
        "cola": {"latent_dim": 2, "block_size": BLOCK, "patch_size": patch_size},
        "embedding_diffusion": {"embedding_dim": 4, "block_size": BLOCK},
    }.get(name, {})
    family = family_of(name)
    return family, sharpened(family.build(size_model(name, 30_000, VOCAB, **options)), 4.0)


def measured(
    name: str,
    prompts: list[list[int]] = PROMPTS,
    continuations: list[list[int]] = CONTINUATIONS,
    ids: list[int] | None = None,
    settings: LikelihoodSpec | None = None,
) -> Conditional:
    family, model = built(name)
    stream = Stream(0, 0, ids if ids is not None else range(len(prompts)))
    return family.conditional_nll(
        model,
        prompts,
        continuations,
        settings=settings or SETTINGS,
        stream=stream,
        eos_token_id=EOS,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    together = measured(name)
    assert together.nll_B.dtype == torch.float64
    for row, (prompt, continuation) in enumerate(zip(PROMPTS, CONTINUATIONS, strict=True)):
        alone = measured(name, [prompt], [continuation], [row])
        torch.testing.assert_close(alone.nll_B[0], together.nll_B[row], rtol=1e-5, atol=1e-4)
        assert float(alone.nll_B[0]) > 0 or name == "cola"


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_costs_nothing(name: str) -> None:
    found = measured(name, [[], [3, 4], [7]], [[], [], [1, 2]])
    assert found.nll_B[:2].tolist() == [0.0, 0.0]
    assert abs(float(found.nll_B[2])) > 0


@torch.no_grad()
def test_ar_is_the_sum_of_transformers_log_probabilities() -> None:
    found = measured("ar")
    _, model = built("ar")
    for row, (prompt, continuation) in enumerate(zip(PROMPTS, CONTINUATIONS, strict=True)):
        whole = [VOCAB, *prompt, *continuation]  # the start token is the extra row
        log_p = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        first = 1 + len(prompt)
        expected = -sum(float(log_p[place - 1, whole[place]]) for place in range(first, len(whole)))
        assert float(found.nll_B[row]) == pytest.approx(expected, rel=1e-5)
    assert found.kind == "exact"


@torch.no_grad()
def test_ar_says_greedy_of_what_greedy_generation_makes() -> None:
    _, model = built("ar")
    made = model.generate(
        torch.tensor([[VOCAB, 5, 6, 7]]), do_sample=False, max_new_tokens=5, suppress_tokens=[VOCAB]
    )[0, 4:].tolist()
    other = [*made[:-1], (made[-1] + 1) % VOCAB]
    found = measured("ar", [[5, 6, 7]] * 3, [made, other, made[:2]])
    assert found.greedy_B is not None
    assert found.greedy_B.tolist() == [True, False, True]


def tiny_llada() -> LLaDAModel:
    torch.manual_seed(0)
    spec = LLaDAModelSpec(hidden_size=16, ffn_size=32, num_layers=2, num_heads=2, vocab_size=3)
    model: LLaDAModel = sharpened(family_of("llada").build(spec), 8.0)  # type: ignore[assignment]
    return model


@torch.no_grad()
def enumerated_bound(model: LLaDAModel, prompt: list[int], continuation: list[int]) -> float:
    """Over all counts and all masks of the continuation alone."""
    length, total = len(continuation), 0.0
    for count in range(1, length + 1):
        masks = list(itertools.combinations(range(length), count))
        for places in masks:
            hidden = list(continuation)
            for place in places:
                hidden[place] = model.config.mask_token_id
            log_p = model(torch.tensor([prompt + hidden])).log_softmax(-1)[0, len(prompt) :]
            nll = -sum(float(log_p[place, continuation[place]]) for place in places)
            total += length / count * nll / len(masks) / length
    return total


def test_llada_s_bound_against_enumeration() -> None:
    model, rows = tiny_llada(), 200
    texts = [([2, 0], [0, 2, 1, 1]), ([1, 1, 1, 0, 0], [2, 0, 2])]  # the shorter one is padded
    found = family_of("llada").conditional_nll(
        model,
        [prompt for prompt, _ in texts] * rows,
        [continuation for _, continuation in texts] * rows,
        settings=LikelihoodSpec(mask_samples=4),
        stream=Stream(0, 0, range(2 * rows)),
        eos_token_id=None,
    )
    for row, (prompt, continuation) in enumerate(texts):
        nll = found.nll_B[row::2]
        truth = enumerated_bound(model, prompt, continuation)
        assert abs(float(nll.mean()) - truth) < 4 * float(nll.std()) / math.sqrt(rows)
    assert (found.kind, found.greedy_B) == ("bound", None)


def test_without_a_prompt_llada_s_bound_is_the_sequence_s() -> None:
    model, text = tiny_llada(), [[0, 2, 1, 1, 0], [1, 1, 2, 0, 0]]
    stream = Stream(0, 0, [4, 9])
    expected = masked_samples(model, torch.tensor(text), 8, stream=stream).sum(2).mean(0)
    found = family_of("llada").conditional_nll(
        model, [[], []], text, settings=LikelihoodSpec(), stream=stream, eos_token_id=None
    )
    torch.testing.assert_close(found.nll_B, expected)


@torch.no_grad()
def test_llada_s_chain_rule_is_a_distribution_over_continuations() -> None:
    model, prompt = tiny_llada(), [2, 0, 1]
    every = [list(text) for text in itertools.product(range(3), repeat=3)]
    found = family_of("llada").conditional_nll(
        model,
        [prompt, *[prompt] * len(every)],
        [[1] * 6, *every],  # the first one pads the others
        settings=LikelihoodSpec(masked="chain_rule"),
        stream=Stream(0, 0, range(len(every) + 1)),
        eos_token_id=None,
    )
    assert found.kind == "exact"
    assert float((-found.nll_B[1:]).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    hidden, expected = [model.config.mask_token_id] * 3, []
    for place in range(3):
        logits = model(torch.tensor([prompt + hidden]))[0, len(prompt) + place]
        hidden[place] = int(logits.argmax())
        expected.append(hidden[place])
    assert found.greedy_B is not None
    assert [every[row] for row in range(27) if found.greedy_B[1 + row]] == [expected]


def tensors(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum(0)


@pytest.mark.parametrize("patch_size", [1, 2])
def test_cola_is_the_bound_of_both_less_the_bound_of_the_prompt(patch_size: int) -> None:
    family, model = built("cola", patch_size)
    per_block = BLOCK * patch_size
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(0, VOCAB, (2, 3 * per_block), generator=generator)
    settings, stream = SETTINGS, Stream(0, 0, [3, 4])
    prompts, rest = text[:, :per_block].tolist(), text[:, per_block:].tolist()
    found = family.conditional_nll(
        model, prompts, rest, settings=settings, stream=stream, eos_token_id=EOS
    )
    expected = tensors(conditional_evidence(model, text, per_block, settings, stream))
    torch.testing.assert_close(found.nll_B, expected, rtol=1e-5, atol=1e-3)
    assert found.kind == "estimate"
    alone = family.conditional_nll(
        model, [[], []], text.tolist(), settings=settings, stream=stream, eos_token_id=EOS
    )
    whole = tensors(evidence_bound(model, text, settings, stream))
    torch.testing.assert_close(alone.nll_B, whole, rtol=1e-5, atol=1e-3)
    measured = family.likelihood(model, text, settings, stream=stream).diagnostics
    difference = float(measured[SOLVER_DIFFERENCE].mean())
    assert (alone.kind, alone.greedy_B) == (nll_kind_of("bound", difference), None)


def test_cola_pads_a_prompt_to_whole_blocks_on_the_left() -> None:
    padded = [EOS] * (BLOCK - 3) + [5, 6, 7]
    ragged = measured("cola", [[5, 6, 7]], [[8, 9, 1, 2]], [0])
    assert torch.equal(ragged.nll_B, measured("cola", [padded], [[8, 9, 1, 2]], [0]).nll_B)


def test_cola_does_not_predict_what_fills_the_last_block() -> None:
    """The bound of the padded text is higher by the cross entropy of the padding alone."""
    _, model = built("cola")
    short, stream = [8, 9], Stream(0, 0, [0])
    filled = torch.tensor([[8, 9, EOS, EOS]])
    settings = SETTINGS
    found = measured("cola", [[]], [short], [0])
    whole = evidence_bound(model, filled, settings, stream)
    difference = float(tensors(whole)[0] - found.nll_B[0])
    with torch.no_grad():
        mean, log_variance = model.vae.encoder(filled)
        noise = stream.normal("posterior", *mean.shape[1:])
        log_p = model.vae.decoder(mean + (0.5 * log_variance).exp() * noise).log_softmax(-1)[0]
    assert difference == pytest.approx(-float(log_p[2:, EOS].sum()), rel=1e-4)
    assert difference > 0


def test_cola_takes_importance_weighted_bounds_where_asked() -> None:
    several = LikelihoodSpec(ode_steps=2, divergence="exact", importance_samples=3)
    family, model = built("cola")
    prompt, rest, stream = [1, 2, 3, 4], [5, 6, 7, 8], Stream(0, 0, [0])
    found = family.conditional_nll(
        model, [prompt], [rest], settings=several, stream=stream, eos_token_id=EOS
    )
    whole = family.likelihood(model, torch.tensor([prompt + rest]), several, stream=stream)
    single = LikelihoodSpec(ode_steps=2, divergence="exact")
    one = family.conditional_nll(
        model, [prompt], [rest], settings=single, stream=stream, eos_token_id=EOS
    )
    empty = family.conditional_nll(
        model, [[]], [prompt + rest], settings=several, stream=stream, eos_token_id=EOS
    )
    torch.testing.assert_close(empty.nll_B, whole.nll_B, rtol=1e-5, atol=1e-3)
    assert abs(float(found.nll_B[0] - one.nll_B[0])) > 1e-3
    assert 0 < float(found.nll_B[0]) < float(empty.nll_B[0])


def test_an_ar_continuation_after_a_prompt_adds_up_to_the_whole() -> None:
    """log p(a b) = log p(a) + log p(b | a)."""
    torch.manual_seed(0)
    spec = ARModelSpec(hidden_size=16, ffn_size=32, num_layers=2, num_heads=2, vocab_size=VOCAB)
    family = family_of("ar")
    model = sharpened(family.build(spec), 6.0)
    stream = Stream(0, 0, range(3))
    text = [4, 9, 1, 0, 22]
    prompts, rest = [[], [], text[:2]], [text, text[:2], text[2:]]
    nll = family.conditional_nll(
        model, prompts, rest, settings=LikelihoodSpec(), stream=stream, eos_token_id=None
    ).nll_B
    assert float(nll[0]) == pytest.approx(float(nll[1] + nll[2]), rel=1e-5)
    whole = family.likelihood(model, torch.tensor([text]), LikelihoodSpec(), stream=stream).nll_B
    assert float(nll[0]) == pytest.approx(float(whole[0]), rel=1e-5)
