"""Rows that end are given to waiting prompts: continuations do not depend on it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn

from cola.families.interface.family import Family
from cola.families.registry import family_of
from cola.models.kv_cache import KVCache, compact_order
from cola.sampling.continuous_batching import cut_where
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.sizes import FAMILIES, TINY_CORE, size_model

VOCAB, EOS = 40, 3
PROMPTS = [[5, 6, 7], list(range(4, 31)), [], [9] * 8, [1, 2, 4, 5, 6], [7], [8, 7] * 9, [11], []]
SETTINGS = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "top_p": 0.95},
    "penalty": {"temperature": 1.0, "repetition_penalty": 1.3},
    "greedy penalty": {"repetition_penalty": 1.3},
}


@functools.cache
def built(name: str, patch_size: int = 1) -> tuple[Family, nn.Module]:
    torch.manual_seed(0)
    options = {
        "cola": {"latent_dim": 4, "block_size": 4, "patch_size": patch_size},
        "embedding_diffusion": {"embedding_dim": 4, "block_size": 4},
    }
    family = family_of(name)
    model = family.build(size_model(name, TINY_CORE[name], VOCAB, **options.get(name, {})))
    with torch.no_grad():  # an untrained model's logits are too flat to show a difference
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
    return family, model.eval()


def spec(**values: object) -> GenerationSpec:
    return GenerationSpec.parse({"max_new_tokens": 14, "steps": 2} | values)


def ended(made: list[int]) -> bool:
    """At a length between 1 and 9 that depends on the first token."""
    return len(made) > made[0] % 9


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def one_by_one(
    name: str, settings: GenerationSpec, prompts: list[list[int]], stops: bool, patch_size: int = 1
) -> list[list[int]]:
    """Every prompt's `generate` alone, cut afterwards."""
    alone = [
        alone_generated(name, settings, tuple(prompt), index, patch_size)
        for index, prompt in enumerate(prompts)
    ]
    return [cut_where(list(tokens), ended if stops else None) for tokens in alone]


@cache
def alone_generated(
    name: str, settings: GenerationSpec, prompt: tuple[int, ...], index: int, patch_size: int
) -> tuple[int, ...]:
    """The uncut continuation, which does not depend on where it is cut."""
    family, model = built(name, patch_size)
    stream = Stream(0, 0, [index])
    return tuple(
        family.generate(model, [list(prompt)], settings, stream=stream, eos_token_id=EOS)[0]
    )


def streamed(
    name: str,
    settings: GenerationSpec,
    prompts: list[list[int]],
    stops: bool,
    rows: int,
    patch_size: int = 1,
) -> list[list[int]]:
    """What `iter_generate` yields, in the prompts' order; every prompt exactly once."""
    family, model = built(name, patch_size)
    stream = Stream(0, 0, range(len(prompts)))
    predicate = ended if stops else None
    found = list(
        family.iter_generate(
            model, prompts, settings, stream=stream, eos_token_id=EOS, rows=rows, ended=predicate
        )
    )
    assert sorted(index for index, _ in found) == list(range(len(prompts)))
    return [tokens for _, tokens in sorted(found)]


@pytest.mark.parametrize("stops", [False, True], ids=["to the end", "ended"])
@pytest.mark.parametrize("values", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_change_nothing(name: str, values: dict[str, object], stops: bool) -> None:
    # Masks behind nothing are all alike: which of them LLaDA unmasks first is a matter of rounding.
    prompts = [prompt for prompt in PROMPTS if prompt or name != "llada"]
    expected = one_by_one(name, spec(**values), prompts, stops)
    for rows in (1, 3) if stops else (3, 16):
        assert streamed(name, spec(**values), prompts, stops, rows) == expected
    if stops:
        assert len({len(tokens) for tokens in expected}) >= 3
    assert all(EOS not in tokens[:-1] for tokens in expected)


@pytest.mark.parametrize("patch_size", [2, 3])
@pytest.mark.parametrize("strategy", ["clean_repaint", "partial_repaint", "left_padding"])
def test_split_patches_and_part_filled_blocks_join_too(patch_size: int, strategy: str) -> None:
    settings = spec(first_block=strategy, temperature=1.0, max_new_tokens=9)
    expected = one_by_one("cola", settings, PROMPTS, True, patch_size)
    assert streamed("cola", settings, PROMPTS, True, 3, patch_size) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ar", "cola"])
@examples(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    prompts=st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=20), max_size=8),
    rows=st.integers(1, 9),
    longest=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 1.0]),
    penalty=st.sampled_from([1.0, 1.2]),
    stops=st.booleans(),
)
def test_any_prompts_in_any_rows_are_those_of_generate(
    name: str,
    prompts: list[list[int]],
    rows: int,
    longest: int,
    temperature: float,
    penalty: float,
    stops: bool,
) -> None:
    with torch.no_grad():
        settings = spec(max_new_tokens=longest, temperature=temperature, repetition_penalty=penalty)
        expected = one_by_one(name, settings, prompts, stops)
        assert streamed(name, settings, prompts, stops, rows) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cache_gives_what_reading_all_again_gives(temperature: float) -> None:
    """AR written out: the whole text in one pass for every token, in float64."""
    family, model = built("ar")
    settings, double = spec(temperature=temperature), model.double()
    found = dict(
        family.iter_generate(
            double,
            PROMPTS,
            settings,
            stream=Stream(0, 0, range(9)),
            eos_token_id=EOS,
            rows=3,
            ended=None,
        )
    )
    for index, prompt in enumerate(PROMPTS):
        made: list[int] = []
        while len(made) < 14 and EOS not in made:
            text = torch.tensor([[VOCAB, *prompt, *made]])
            logits = double(input_ids=text).logits[0, -1, :VOCAB].float()
            if temperature == 0.0:
                made.append(int(logits.argmax()))
                continue
            drawn = Stream(0, 0, [index]).uniform(f"token/{len(made)}")
            made.append(int((logits.softmax(-1).cumsum(-1) <= drawn).sum()))
        assert found[index] == made
    model.float()


@pytest.mark.parametrize("name", ["ar", "cola"])
def test_a_continuation_is_yielded_before_longer_ones_end(name: str) -> None:
    """Prompt 0 runs to the full length; the other six pass through the second row meanwhile."""
    family, model = built(name)
    prompts = [[index] for index in range(7)]
    settings = spec(max_new_tokens=60, temperature=1.0)
    stream = Stream(0, 0, range(7))
    first = family.generate(model, prompts[:1], settings, stream=stream.of([0]), eos_token_id=None)[
        0
    ]

    def short(made: list[int]) -> bool:
        return len(made) >= 4 and made != first[: len(made)]

    found = list(
        family.iter_generate(
            model, prompts, settings, stream=stream, eos_token_id=None, rows=2, ended=short
        )
    )
    assert [index for index, _ in found] == [1, 2, 3, 4, 5, 6, 0]
    assert [len(tokens) for _, tokens in found] == [4] * 6 + [60]


class CountingStream(Stream):
    """Remembers whose random numbers were asked for."""

    asked: set[int]

    def of(self, rows: object) -> Stream:
        part = super().of(rows)  # type: ignore[arg-type]
        self.asked |= set(part.sample_ids)
        return part


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_beyond_the_rows_waits_until_it_is_read_for(name: str) -> None:
    family, model = built(name)
    stream = CountingStream(0, 0, range(9))
    stream.asked = set()
    running = family.iter_generate(model, PROMPTS, spec(), stream=stream, eos_token_id=EOS, rows=3)
    assert stream.asked == set()
    next(running)
    assert stream.asked == {0, 1, 2}


def test_a_compact_order_moves_as_few_rows_as_there_are_gaps() -> None:
    assert compact_order([0, 2, 3, 5]) == [0, 5, 2, 3]
    assert compact_order([4, 5]) == [5, 4]
    assert compact_order([0, 1]) == [0, 1]
    assert compact_order([]) == []


@pytest.mark.parametrize("step", [None, 2])
def test_a_cache_s_rows_leave_and_join(step: int | None) -> None:
    cache = KVCache(
        2, 4, 1, capacity=4, head_dim=2, device=torch.device("cpu"), dtype=torch.float32, step=step
    )

    def entries(*values: float) -> torch.Tensor:
        return torch.tensor(values)[:, None, None, None].expand(-1, 1, 2, 2)

    for layer in (0, 1):
        cache.view(2, 2).update(entries(1, 2, 3, 4), entries(5, 6, 7, 8), layer)
    cache.advance([1, 2, 0, 2])
    cache.keep(compact_order([1, 3]))
    assert cache.lengths == [2, 2]
    part = cache.unused(1)
    part.view(2, 2).update(entries(9), entries(10), 1)
    part.advance([1])
    cache.append(part)
    assert cache.lengths == cache.length_B[:3].tolist() == [2, 2, 1]
    assert cache.rows == (3 if step is None else 4)
    view = cache.view(1, 1)
    assert view.keys[1, :3, 0, 0, 0].tolist() == [4.0, 2.0, 9.0]
    assert view.values[1, :3, 0, 0, 0].tolist() == [8.0, 6.0, 10.0]


def test_entries_lie_behind_each_row_s_own() -> None:
    cache = KVCache(
        1, 2, 1, capacity=4, head_dim=1, device=torch.device("cpu"), dtype=torch.float32
    )
    keys = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, None, :, None]
    cache.view(2, 1).update(keys, keys, 0)
    cache.advance([2, 1])
    seen, _ = cache.view(1, 1).update(keys[:, :, :1] + 4, keys[:, :, :1], 0)
    assert seen[..., 0].tolist() == [[[1.0, 2.0, 5.0]], [[3.0, 7.0, 0.0]]]


@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_prompt_in_work_nothing_is_generated(name: str) -> None:
    family, model = built(name)
    made = family.iter_generate(
        model, PROMPTS, spec(), stream=Stream(0, 0, range(9)), eos_token_id=EOS, rows=0
    )
    with pytest.raises(ValueError, match="rows=0: generation needs at least one prompt"):
        next(made)
