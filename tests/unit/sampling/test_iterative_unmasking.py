"""LLaDA's gaps: their length, what they are filled from, in which order."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cola.families.registry import family_of
from cola.models.transformer import LLaDAModel
from cola.sampling.iterative_unmasking import infill, schedule
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.sizes import size_model

VOCAB = 40
MASK = VOCAB
LEFTS = [[1, 2, 3, 4, 5], [7, 8], [], [9] * 6, [30, 31]]
GAPS = [5, 9, 2, 0, 7]
RIGHTS = [[11, 12, 13], [14], [17, 18, 19, 20], [21, 22], []]
SAMPLED = {"temperature": 1.0, "top_p": 0.95}
WAYS: dict[str, dict[str, object]] = {
    "greedy": {},
    "sampled": SAMPLED,
    "random order": {"remasking": "random"},
    "blocks": {"unmasking_block": 2, **SAMPLED},
    "guided": {"unmasking_guidance_scale": 2.0, "unmasking_block": 4},
}


@functools.cache
def model() -> LLaDAModel:
    torch.manual_seed(0)
    built: LLaDAModel = family_of("llada").build(size_model("llada", 60_000, VOCAB)).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
    return built


def spec(**values: object) -> GenerationSpec:
    return GenerationSpec.parse({"tokens_per_pass": 2} | values)


def streams(count: int) -> Stream:
    return Stream(0, 0, range(count))


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("values", WAYS.values(), ids=WAYS)
def test_gaps_have_their_length_whatever_the_batch(values: dict[str, object]) -> None:
    settings = spec(**values)
    together = infill(model(), LEFTS, GAPS, rights=RIGHTS, settings=settings, stream=streams(5))
    assert [len(row) for row in together] == GAPS
    assert all(0 <= token < VOCAB for row in together for token in row)
    for i in range(5):
        (row,) = infill(
            model(),
            [LEFTS[i]],
            [GAPS[i]],
            rights=[RIGHTS[i]],
            settings=settings,
            stream=Stream(0, 0, [i]),
        )
        assert row == together[i]


def test_a_gap_is_filled_like_this() -> None:
    """Written out for one row, without padding: the likeliest of all predictions, one a step."""
    left, gap, right = [1, 2, 3], 4, [10, 11]
    text = [*left, *[MASK] * gap, *right]
    while MASK in text:
        probability = model()(torch.tensor([text]))[0].softmax(-1)
        masked = [place for place, token in enumerate(text) if token == MASK]
        place = max(masked, key=lambda place: float(probability[place].max()))
        text[place] = int(probability[place].argmax())
    (found,) = infill(
        model(), [left], [gap], rights=[right], settings=GenerationSpec(), stream=streams(1)
    )
    assert found == text[3:7]


@pytest.mark.parametrize("values", WAYS.values(), ids=WAYS)
def test_a_gap_without_a_right_context_is_a_continuation(values: dict[str, object]) -> None:
    settings = spec(max_new_tokens=7, **values)
    lefts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    made = infill(model(), lefts, [7, 7], rights=[[], []], settings=settings, stream=streams(2))
    assert made == family_of("llada").generate(
        model(), lefts, settings, stream=streams(2), eos_token_id=None
    )
    eos = made[0][2]
    (cut, _) = family_of("llada").generate(
        model(), lefts, settings, stream=streams(2), eos_token_id=eos
    )
    assert cut == made[0][: made[0].index(eos) + 1]


def test_nothing_to_fill_takes_no_pass() -> None:
    broken: Any = None
    assert infill(
        broken, [[1], []], [0, 0], rights=[[2], [3]], settings=spec(), stream=streams(2)
    ) == [[], []]


class CountsDown(nn.Module):
    """Predicts by position from the nearest known token on the right, and from nothing else."""

    config = SimpleNamespace(mask_token_id=MASK)
    device = torch.device("cpu")

    def forward(
        self, tokens_BL: Tensor, real_BL: Tensor, position_BL: Tensor, *, wanted: slice
    ) -> Tensor:
        logits_BLV = torch.zeros(*tokens_BL.shape, VOCAB)
        for row, places in enumerate(real_BL):
            known = [
                (int(position_BL[row, place]), int(tokens_BL[row, place]))
                for place in places.nonzero()[:, 0].tolist()
                if tokens_BL[row, place] != MASK
            ]
            for place in places.nonzero()[:, 0].tolist():
                here = int(position_BL[row, place])
                behind = [(at, token) for at, token in known if at > here]
                if behind:
                    at, token = min(behind)
                    logits_BLV[row, place, (token + at - here) % VOCAB] = 10.0 - (at - here)
        return logits_BLV[:, wanted]


@pytest.mark.parametrize("values", [{}, {"unmasking_block": 2}, {"unmasking_guidance_scale": 2.0}])
def test_gaps_are_filled_from_the_right_context(values: dict[str, object]) -> None:
    counting: Any = CountsDown()
    lefts, rights = [[39, 39], [], [39] * 5], [[6, 5], [3], [20, 1, 1]]
    made = infill(
        counting,
        lefts,
        [4, 2, 7],
        rights=rights,
        settings=spec(tokens_per_pass=1, **values),
        stream=streams(3),
    )
    assert made == [[10, 9, 8, 7], [5, 4], [27, 26, 25, 24, 23, 22, 21]]


def recorded(settings: GenerationSpec) -> list[Tensor]:
    """What the model reads, pass by pass, for one row: left 3, a gap of 6, right 2."""
    seen: list[Tensor] = []
    hook = model().register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    infill(model(), [[1, 2, 3]], [6], rights=[[10, 11]], settings=settings, stream=streams(1))
    hook.remove()
    return seen


def test_known_tokens_stay_and_guidance_hides_both_contexts() -> None:
    for tokens in recorded(spec(tokens_per_pass=1, unmasking_guidance_scale=2.0)):
        conditional, unconditional = tokens
        assert conditional[:3].tolist() == [1, 2, 3]
        assert conditional[-2:].tolist() == [10, 11]
        assert unconditional[[0, 1, 2, 9, 10]].tolist() == [MASK] * 5
        assert torch.equal(conditional[3:9], unconditional[3:9])


def test_blocks_are_unmasked_from_left_to_right_with_growing_counts() -> None:
    still = [(tokens[0, 3:9] == MASK).int() for tokens in recorded(spec(unmasking_block=3))]
    counts = [[int(row[:3].sum()), int(row[3:].sum())] for row in still]
    assert counts == [[3, 3], [1, 3], [0, 3], [0, 1]]
    whole = [int((tokens == MASK).sum()) for tokens in recorded(spec())]
    assert whole == [6, 4, 2]


@pytest.mark.parametrize("gap", [0, 1, 5, 12])
@pytest.mark.parametrize("block", [None, 1, 4])
@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_a_schedule_fills_the_whole_gap(gap: int, block: int | None, at_once: int) -> None:
    settings = spec(tokens_per_pass=at_once, unmasking_block=block)
    planned = schedule(gap, settings)
    last = {step.start: step for step in planned}
    assert sum(step.end - step.start for step in last.values()) == gap
    assert all(step.unmasked == step.end - step.start for step in last.values())
    before = 0
    for step in planned:
        before = 0 if step.number == 0 else before
        assert step.unmasked - before <= at_once
        before = step.unmasked
    assert len(planned) == settings.unmasking_passes(gap)


def test_a_pass_unmasks_one_token_whatever_the_steps_of_a_flow() -> None:
    for steps in (1, 16):
        assert [step.unmasked for step in schedule(5, GenerationSpec(steps=steps))] == [
            1,
            2,
            3,
            4,
            5,
        ]
