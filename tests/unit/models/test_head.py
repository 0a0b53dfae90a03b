"""The output head's costs of tokens, against `F.cross_entropy` of whole logits in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM

from cola.compute.head_memory import CHUNK, PIECE, bytes_saved, divided_bytes
from cola.families.cola.spec import ColaObjective
from cola.families.interface.family import Batch
from cola.families.llada.spec import MaskedDiffusion
from cola.families.registry import family_of
from cola.models import head as heads
from cola.models.head import (
    HeadLayout,
    OutputHead,
    Scored,
    judged_nll,
    layout_of,
    strided_logits,
    token_nll,
)
from cola.objectives.next_token import next_token_loss
from cola.seeding import Stream
from tests.sizes import size_model

WIDTH, VOCABULARY = 24, 301
LAYOUTS = [
    None,  # whole logits
    HeadLayout(chunk=10**6, piece=10**6),
    HeadLayout(chunk=16, piece=5),
    HeadLayout(chunk=7, piece=3, multiple=128),
]


def head_of(bias: bool, dtype: torch.dtype = torch.float32) -> OutputHead:
    torch.manual_seed(0)
    head = OutputHead(WIDTH, VOCABULARY, bias=bias, dtype=dtype)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return head


def inputs(tokens: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """Features, tokens and weights."""
    draws = torch.Generator().manual_seed(1)
    x_NC = torch.randn(tokens, WIDTH, generator=draws)
    ids_N = torch.randint(0, VOCABULARY, (tokens,), generator=draws)
    return x_NC, ids_N, torch.rand(tokens, generator=draws)


def outcome(head: OutputHead, scored: Scored, x_NC: Tensor, *, factor: float) -> list[Tensor]:
    """Costs, the likeliest tokens, and gradients of `factor` times the costs' weighted sum."""
    x_NC = x_NC.clone().requires_grad_()
    head.zero_grad()
    nll, likeliest_N = head(x_NC, scored)
    assert nll.dtype == torch.promote_types(head.weight.dtype, torch.float32)
    (factor * (nll * torch.arange(len(nll))).sum() if nll.dim() else factor * nll).backward()
    gradients = [parameter.grad for parameter in (x_NC, *head.parameters())]
    return [nll.detach(), likeliest_N, *(g for g in gradients if g is not None)]


def plain(head: OutputHead, scored: Scored, x_NC: Tensor, *, factor: float) -> list[Tensor]:
    """The same by the textbook in float64."""
    x_NC = x_NC.double().requires_grad_()
    given_ = [p.detach().double().requires_grad_() for p in head.parameters()]
    logits = F.linear(x_NC, *given_)
    nll = F.cross_entropy(logits, scored.tokens_N, reduction="none")
    if scored.reduction == "mean":
        nll = nll.mean()
    if scored.weights_N is not None:
        nll = (nll * scored.weights_N.double()).sum()
    (factor * (nll * torch.arange(len(nll))).sum() if nll.dim() else factor * nll).backward()
    likeliest = logits[:, : scored.candidates].argmax(-1) == scored.tokens_N
    return [nll.detach(), likeliest, *(p.grad for p in (x_NC, *given_) if p.grad is not None)]


def scored_as(reduction: Any, layout: HeadLayout | None) -> tuple[Scored, Tensor]:
    x_NC, ids_N, weights_N = inputs()
    weights = weights_N if reduction == "sum" else None
    return Scored(ids_N, reduction, weights, VOCABULARY - 1, layout), x_NC


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("bias", [True, False])
def test_costs_and_gradients_are_those_of_whole_logits(
    bias: bool, reduction: str, layout: HeadLayout | None
) -> None:
    """Within 1e-6 of the largest in float32, and in float64 to its last digits."""
    scored, x_NC = scored_as(reduction, layout)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        head = head_of(bias, dtype)
        found = outcome(head, scored, x_NC.to(dtype), factor=2.5)
        expected = plain(head, scored, x_NC, factor=2.5)
        assert torch.equal(found[1], expected[1])
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == theirs.shape
            largest = float(theirs.double().abs().max())
            assert float((ours.double() - theirs.double()).abs().max()) <= tolerance * largest


@settings(max_examples=25)
@given(
    tokens=st.integers(1, 40),
    chunk=st.integers(1, 50),
    piece=st.integers(1, 50),
    multiple=st.sampled_from([1, 2, 64, 128, 512]),
)
def test_no_division_changes_costs(tokens: int, chunk: int, piece: int, multiple: int) -> None:
    x_NC, ids_N, weights_N = inputs(tokens)
    scored = Scored(ids_N, "sum", weights_N, 7, HeadLayout(chunk, piece, multiple))
    head = head_of(bias=True, dtype=torch.float64)
    found = outcome(head, scored, x_NC.double(), factor=1.0)
    for ours, theirs in zip(found, plain(head, scored, x_NC, factor=1.0), strict=True):
        assert torch.allclose(ours.double(), theirs.double(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_added_rows_have_no_probability(bias: bool) -> None:
    """Every real logit is far below 0, which is what a product gives for an added row."""
    head, x_NC = head_of(bias), torch.ones(6, WIDTH)
    with torch.no_grad():
        head.weight.fill_(-1.0)
    ids_N, layout = torch.arange(6), HeadLayout(4, 4, 128)
    with torch.no_grad():
        nll_N, likeliest_N = head(x_NC, Scored(ids_N, candidates=VOCABULARY, layout=layout))
    logits = head(x_NC)
    assert torch.allclose(nll_N, F.cross_entropy(logits, ids_N, reduction="none"), atol=1e-5)
    assert torch.equal(likeliest_N, logits.argmax(-1) == ids_N)
    nll, _ = head(x_NC, Scored(ids_N, "mean", layout=layout))
    nll.backward()
    assert head.weight.grad is not None
    assert head.weight.grad.shape == (VOCABULARY, WIDTH)
    assert nll.item() == pytest.approx(float(nll_N.mean()), rel=1e-6)


@pytest.mark.parametrize("layout", [None, HeadLayout(4, 4), HeadLayout(4, 4, 128)])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("token", [-1, VOCABULARY, VOCABULARY + 4])
def test_a_token_outside_of_the_vocabulary_has_no_cost(
    token: int, reduction: Any, layout: HeadLayout | None
) -> None:
    ids_N = torch.tensor([0, 1, 2, 3, 4, token])
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        head_of(bias=False)(inputs(6)[0], Scored(ids_N, reduction, layout=layout))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_bfloat16_costs_are_as_near_as_whole_logits_are(layout: HeadLayout) -> None:
    """Under autocast the products round, and sums of costs and of gradients are in float32."""
    scored, x_NC = scored_as("sum", layout)
    head = head_of(bias=True)
    expected = plain(head, scored, x_NC, factor=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(head, scored, x_NC, factor=1.0)
        whole = outcome(head, scored_as("sum", None)[0], x_NC, factor=1.0)
    for place in (0, 2, 3, 4):
        ours, usual = (float((f[place] - expected[place]).abs().max()) for f in (found, whole))
        assert found[place].dtype == torch.float32
        assert ours <= 1.5 * usual + 1e-4


def test_three_products_are_all_that_a_gradient_takes() -> None:
    """As with whole logits, so that executed FLOPs do not depend on the layout."""
    scored, x_NC = scored_as("mean", HeadLayout(16, 8))
    with FlopCounterMode(display=False) as counter:
        outcome(head_of(bias=False), scored, x_NC, factor=1.0)
    assert counter.get_total_flops() == 3 * 2 * len(x_NC) * WIDTH * VOCABULARY


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that an operator made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_no_tensor_is_as_large_as_the_logits(reduction: str) -> None:
    scored, x_NC = scored_as(reduction, HeadLayout(4, 2, 128))
    with Largest() as largest:
        outcome(head_of(bias=True), scored, x_NC, factor=1.0)
    assert largest.elements <= 384 * WIDTH < len(x_NC) * VOCABULARY


def test_small_problems_keep_whole_logits_and_large_ones_do_not() -> None:
    few, many = torch.empty(257, 8), torch.empty(100_279, 8, dtype=torch.bfloat16)
    assert layout_of(8192, few) is None
    layout = layout_of(32_768, many)
    assert layout is not None
    assert layout.chunk % 128 == 0
    assert layout.chunk * len(many) <= CHUNK["cpu"]
    assert layout.multiple == 1  # rows are padded for CUDA alone


def test_costs_are_differentiated_once() -> None:
    scored, x_NC = scored_as("mean", HeadLayout(16, 8))
    nll, _ = head_of(bias=False)(x_NC.requires_grad_(), scored)
    nll.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        nll.backward()


def test_a_frozen_head_gives_features_their_gradient() -> None:
    scored, x_NC = scored_as("mean", HeadLayout(16, 8))
    head = head_of(bias=True).requires_grad_(False)
    found = outcome(head, scored, x_NC, factor=1.0)
    assert len(found) == 3
    expected = plain(head, scored, x_NC, factor=1.0)[2]
    assert torch.allclose(found[2].double(), expected, atol=1e-7)


@pytest.mark.parametrize("bias", [True, False])
def test_logits_in_aligned_rows_are_the_logits(bias: bool) -> None:
    head = head_of(bias)
    x_BLC = inputs(6)[0].view(2, 3, WIDTH)
    with torch.no_grad():
        found = strided_logits(x_BLC, head.weight, head.bias, 128)
    assert found.shape == (2, 3, VOCABULARY)
    assert found.stride() == (3 * 384, 384, 1)
    assert torch.allclose(found, F.linear(x_BLC, head.weight, head.bias), atol=1e-6)


STAGES = [
    ("ar", None, "train"),
    ("llada", MaskedDiffusion(), "train"),
    ("cola", ColaObjective(), "vae"),
    ("cola", ColaObjective(), "joint"),
]


@pytest.mark.parametrize(("name", "objective", "stage"), STAGES)
def test_no_family_learns_otherwise_without_whole_logits(
    name: str, objective: Any, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family_of(name)
    torch.manual_seed(0)
    module = family.stage_module(family.build(size_model(name, 100_000, 300)), objective, stage)
    ids = torch.randint(0, 300, (3, 64), generator=torch.Generator().manual_seed(1))
    draws = module.draw(Batch(ids, Stream(0, 0, range(3)), list(range(3)), 3))

    def learned() -> tuple[dict[str, float], list[Tensor]]:
        module.zero_grad()
        terms = module(**draws)
        terms["loss"].backward()
        gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
        return {key: float(value.detach()) for key, value in terms.items()}, gradients

    whole = learned()
    monkeypatch.setattr(heads, "WHOLE", 0)
    monkeypatch.setitem(CHUNK, "cpu", 1)  # 128 tokens: two chunks
    monkeypatch.setitem(PIECE, "cpu", 300 * 50)
    divided = learned()
    assert divided[0] == pytest.approx(whole[0], rel=1e-6)
    for ours, theirs in zip(divided[1], whole[1], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_an_exported_ar_model_is_a_plain_llama(tmp_path: Path) -> None:
    """Its head scores tokens here and is a Linear of the vocabulary's rows there."""
    family = family_of("ar")
    model = family.build(size_model("ar", 50_000, VOCABULARY - 1))
    family.save(model, tmp_path)
    theirs, ours = LlamaForCausalLM.from_pretrained(tmp_path), family.load(tmp_path)
    assert type(theirs.lm_head) is torch.nn.Linear
    assert theirs.lm_head.weight.shape[0] == VOCABULARY
    ids = torch.randint(0, VOCABULARY - 1, (2, 9), generator=torch.Generator().manual_seed(0))
    assert torch.equal(theirs(ids).logits, model(ids).logits)
    assert torch.equal(next_token_loss(ours, ids), next_token_loss(model, ids))


def test_whole_texts_and_chosen_tokens_cost_the_same() -> None:
    head = head_of(bias=False)
    x_NC, ids_N, _ = inputs(12)
    nll_BL = token_nll(head, x_NC.view(3, 4, WIDTH), ids_N.view(3, 4))
    nll_N, _ = judged_nll(head, x_NC, ids_N, candidates=5)
    assert nll_BL.shape == (3, 4)
    assert torch.equal(nll_BL.flatten(), nll_N)


def test_memory_is_planned_without_whole_logits() -> None:
    width, vocabulary, tokens = 2048, 100_352, 32_768
    size = width * vocabulary
    divided = divided_bytes(tokens, vocabulary, "bfloat16", head_parameters=size)
    # Gradient and copy of the weights, the features' gradient, a chunk; at most 2 GB.
    assert (4 + 2) * size + 2 * tokens * width + 2 * 2**27 < divided < 2e9
    saved = bytes_saved(tokens, vocabulary, "bfloat16", head_parameters=size)
    assert saved == 10 * tokens * vocabulary - divided
    assert bytes_saved(8192, 4096, "bfloat16", head_parameters=4096 * width) == 0
    # So many logits are divided, but few enough that it costs more than it saves.
    assert bytes_saved(400, vocabulary, "bfloat16", head_parameters=size) == 0
