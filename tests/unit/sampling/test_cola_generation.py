"""Cola DLM's generation: known parts of blocks, split patches, streams, gaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import pytest
import torch

from cola.families.registry import family_of
from cola.models.cola_dlm import ColaDLM
from cola.sampling.block_continuation import stream_blocks
from cola.sampling.block_decode import BlockDecoder, GenerationDraws, blocks, infill
from cola.sampling.first_block import (
    UNKNOWN,
    complete_patches,
    encode_known,
    encode_prompts,
    padded_prompts,
)
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.sizes import size_model

VOCAB, BLOCK = 40, 4
PROMPTS = [[5, 6, 7], list(range(11)), [], [9] * 8, [1, 2, 3, 4, 5]]
SAMPLED = {"temperature": 1.0, "top_p": 0.95}
Settings = dict[str, object]


def model(patch_size: int = 1) -> ColaDLM:
    torch.manual_seed(0)
    spec = size_model("cola", 60_000, VOCAB, latent_dim=4, block_size=BLOCK, patch_size=patch_size)
    built: ColaDLM = family_of("cola").build(spec).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return built


def spec(**values: object) -> GenerationSpec:
    return GenerationSpec.parse({"max_new_tokens": 10, "steps": 3} | values)


def streams(count: int) -> Stream:
    return Stream(0, 0, range(count))


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("patch_size", [1, 2, 3])
@pytest.mark.parametrize("sampled", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_generation_does_not_depend_on_the_batch(patch_size: int, sampled: Settings) -> None:
    built, settings = model(patch_size), spec(repetition_penalty=1.2, **sampled)
    together = family_of("cola").generate(
        built, PROMPTS, settings, stream=streams(5), eos_token_id=0
    )
    alone = [
        family_of("cola").generate(built, [p], settings, stream=Stream(0, 0, [i]), eos_token_id=0)[
            0
        ]
        for i, p in enumerate(PROMPTS)
    ]
    assert together == alone
    assert len({tuple(row) for row in together}) > 1
    assert all(0 < len(row) <= 10 for row in together)


@pytest.mark.parametrize("patch_size", [2, 3])
@pytest.mark.parametrize("sampled", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_split_patch_reduces_to_the_divisible_case(patch_size: int, sampled: Settings) -> None:
    """The continuation begins with the missing tokens, and goes on as if they were given."""
    built, settings = model(patch_size), spec(**sampled)
    fills = complete_patches(built, PROMPTS, settings, stream=streams(5), pad=0)
    assert [len(fill) for fill in fills] == [-len(p) % patch_size for p in PROMPTS]
    found = family_of("cola").generate(
        built, PROMPTS, settings, stream=streams(5), eos_token_id=None
    )
    completed = [p + fill for p, fill in zip(PROMPTS, fills, strict=True)]
    rest = family_of("cola").generate(
        built, completed, settings, stream=streams(5), eos_token_id=None
    )
    for text, fill, continuation in zip(found, fills, rest, strict=True):
        assert text == (fill + continuation)[:10]


@pytest.mark.parametrize("patch_size", [2, 3])
def test_a_prompt_can_be_moved_to_the_end_of_a_patch(patch_size: int) -> None:
    """It goes on as the prompt without the tokens that were too many, of its beginning."""
    built, long = model(patch_size), [p for p in PROMPTS if len(p) > patch_size]
    moved, aligned = (
        family_of("cola").generate(built, given, settings, stream=streams(4), eos_token_id=0)
        for given, settings in (
            (long, spec(split_patch="shift", **SAMPLED)),
            ([p[len(p) % patch_size :] for p in long], spec(**SAMPLED)),
        )
    )
    assert moved == aligned
    assert "split_patch" not in spec().model_dump()  # keys of runs are as without it


def test_a_fill_depends_on_the_known_half_of_its_patch() -> None:
    built = model(2)
    prompts = [[3, 4, 5, 6, token] for token in range(VOCAB)]
    fills = complete_patches(built, prompts, spec(), stream=streams(VOCAB), pad=0)
    assert len({tuple(fill) for fill in fills}) > 3


def test_a_fill_is_the_vae_s_prediction_of_the_masked_rest_of_the_patch() -> None:
    """Written out for one prompt at a time, without padding, and three tokens a patch."""
    built = model(3)
    mask = built.vae.config.mask_token_id
    prompts = [[token, 4, 5, 6] for token in range(20)] + [
        [token, 7, 7, 7, 2] for token in range(20)
    ]
    fills = complete_patches(built, prompts, spec(), stream=streams(40), pad=0)
    for prompt, found in zip(prompts, fills, strict=True):
        text = list(prompt)
        while len(text) % 3:
            hidden = -len(text) % 3
            logits = built.vae(torch.tensor([text + [mask] * hidden]))[2][0]
            text.append(int(logits[-hidden].argmax()))
        assert found == text[len(prompt) :]


def test_a_fill_alone_can_be_all_that_is_asked_for() -> None:
    built, settings = model(2), spec(max_new_tokens=1)
    given = [[1, 2, 3], [4]]
    chunks = list(stream_blocks(built, given, settings, stream=streams(2), eos_token_id=None))
    assert chunks == [complete_patches(built, given, settings, stream=streams(2), pad=0)]


@pytest.mark.parametrize("patch_size", [1, 2])
def test_a_stream_gives_the_generation_block_by_block(patch_size: int) -> None:
    built, settings = model(patch_size), spec(max_new_tokens=20, **SAMPLED)
    whole = family_of("cola").generate(built, PROMPTS, settings, stream=streams(5), eos_token_id=3)
    chunks = list(stream_blocks(built, PROMPTS, settings, stream=streams(5), eos_token_id=3))
    assert len(chunks) > 1
    assert [[*chain(*(chunk[row] for chunk in chunks))] for row in range(5)] == whole
    room = built.tokens_per_block + patch_size - 1
    assert all(len(tokens) <= room for chunk in chunks for tokens in chunk)


class RecordingStream(Stream):
    """Remembers which blocks' noise was asked for."""

    def __init__(self) -> None:
        super().__init__(0, 0, [0])
        self.asked: list[str] = []

    def normal(self, purpose: str, *shape: int) -> torch.Tensor:
        self.asked.append(purpose)
        return super().normal(purpose, *shape)

    def of(self, rows: Sequence[int]) -> Stream:
        return self


def test_a_stream_works_only_as_far_as_it_is_read_and_stops_at_eos() -> None:
    built, settings, recording = model(), spec(max_new_tokens=40), RecordingStream()
    running = stream_blocks(built, [[1]], settings, stream=recording, eos_token_id=None)
    next(running)
    assert recording.asked == ["z1/0"]
    second = next(running)[0]
    assert recording.asked == ["z1/0", "z1/1"]
    eos = second[-1]
    recording = RecordingStream()
    (text,) = family_of("cola").generate(built, [[1]], settings, stream=recording, eos_token_id=eos)
    assert text[-1] == eos
    assert len(text) <= 7  # 3 tokens beside the prompt's, then 4
    assert len(recording.asked) <= 2


@pytest.mark.parametrize("strategy", ["clean_repaint", "partial_repaint"])
def test_known_latents_end_where_they_were(strategy: str) -> None:
    built, settings = model(), spec(first_block=strategy, guidance_scale=2.0)
    prompts = encode_prompts(built, PROMPTS, 0)
    assert prompts.known_Bk.sum(1).tolist() == [3, 3, 0, 0, 1]
    noise = GenerationDraws(built, settings, streams(5)).noise
    (block,) = blocks(built, prompts, settings, count=1, noise=noise, uniform=None)
    known = prompts.known_Bk
    assert torch.equal(block.latents[known], prompts.known_Bkd[known])
    assert not torch.isclose(block.latents[~known], prompts.known_Bkd[~known]).all(-1).any()
    tokens = prompts.known_tokens_BK
    assert torch.equal(block.tokens[tokens != UNKNOWN], tokens[tokens != UNKNOWN])


def first_block(built: ColaDLM, settings: GenerationSpec) -> torch.Tensor:
    """Latents of the first generated block behind PROMPTS."""
    noise = GenerationDraws(built, settings, streams(5)).noise
    prompts = encode_prompts(built, PROMPTS, 0)
    return next(blocks(built, prompts, settings, count=1, noise=noise, uniform=None)).latents


def test_clean_and_partial_repaint_differ_where_a_block_is_part_filled() -> None:
    built = model()
    clean = first_block(built, spec(first_block="clean_repaint"))
    partial = first_block(built, spec(first_block="partial_repaint"))
    differs = (clean - partial).abs().amax((1, 2)) > 1e-4
    assert differs.tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("strategy", ["left_padding", "right_padding"])
def test_padding_makes_a_prompt_of_whole_blocks(strategy: str) -> None:
    built, settings = model(), spec(first_block=strategy)
    padded = padded_prompts(PROMPTS, strategy, 4, pad=0)
    assert padded[0] == ([0, 5, 6, 7] if strategy == "left_padding" else [5, 6, 7, 0])
    assert [len(prompt) for prompt in padded] == [4, 12, 0, 8, 8]
    found = family_of("cola").generate(built, PROMPTS, settings, stream=streams(5), eos_token_id=0)
    assert found == family_of("cola").generate(
        built, padded, spec(), stream=streams(5), eos_token_id=0
    )


def test_the_penalty_remembers_the_prompt_and_what_is_new_but_nothing_else() -> None:
    """The tail of a prompt inside the first block is not decoded again into the memory."""
    built, texts = model(), [[5, 6, 7], [8]]
    settings = spec(repetition_penalty=1.3)
    noise = GenerationDraws(built, settings, streams(2)).noise
    prompts = encode_prompts(built, texts, 0)
    decoder = BlockDecoder(built, settings, 2, capacity=2 * BLOCK)
    decoder.add(prompts, texts)
    rows: list[list[int]] = [[], []]
    for number in range(2):
        block = decoder.next(prompts.block(number, BLOCK, BLOCK), noise(number), None)
        decoder.keep(block, [0, 1])
        rows = [[*row, *new] for row, new in zip(rows, block.tokens.tolist(), strict=True)]
        memory = [row.nonzero()[:, 0].tolist() for row in decoder.seen]
        assert memory == [sorted(set(row)) for row in rows]
    assert [rows[0][:3], rows[1][:1]] == [[5, 6, 7], [8]]


@pytest.mark.slow
def test_better_solvers_meet_euler_with_many_steps() -> None:
    built = model()

    def error(solver: str, steps: int, grid: str = "uniform") -> float:
        settings = spec(solver=solver, steps=steps, time_grid=grid)
        return float((first_block(built, settings) - truth).abs().max())

    truth = first_block(built, spec(solver="heun", steps=64))
    coarse = error("euler", 16)
    assert coarse > 1e-3
    for solver in ("heun", "midpoint"):
        assert error(solver, 16) < 0.3 * coarse
        assert error(solver, 32, "cosine") < 0.3 * coarse
        assert error(solver, 32, "quadratic") < 0.3 * coarse


def test_guidance_acts_behind_a_prefix_only() -> None:
    built = model()
    plain = first_block(built, spec(guidance_scale=1.0))
    guided = first_block(built, spec(guidance_scale=7.0))
    moved = (plain - guided).abs().amax((1, 2))
    # Prompts of less than a block have an empty prefix: both passes are the same there.
    assert (moved[[0, 2]] < 1e-4).all()
    assert (moved[[1, 3, 4]] > 1e-3).all()


LEFTS, GAPS, RIGHTS = [[1, 2, 3, 4, 5], [7, 8], []], [5, 3, 2], [[11, 12, 13], [14, 15, 16], [17]]


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("sampled", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_gaps_have_their_length_whatever_the_batch(patch_size: int, sampled: Settings) -> None:
    built, settings = model(patch_size), spec(**sampled)
    together = infill(built, LEFTS, GAPS, rights=RIGHTS, settings=settings, stream=streams(3))
    assert [len(row) for row in together] == GAPS
    for i in range(3):
        row = infill(
            built,
            [LEFTS[i]],
            [GAPS[i]],
            rights=[RIGHTS[i]],
            settings=settings,
            stream=Stream(0, 0, [i]),
        )
        assert row == [together[i]]


def test_a_gap_without_a_right_context_is_a_continuation() -> None:
    built, settings = model(), spec(max_new_tokens=9)
    lefts = [[1, 2, 3, 4, 5], [7, 8]]
    gap = infill(built, lefts, [9, 9], rights=[[], []], settings=settings, stream=streams(2))
    assert gap == family_of("cola").generate(
        built, lefts, settings, stream=streams(2), eos_token_id=None
    )


def test_the_right_context_is_pinned_and_acts_inside_its_block_only() -> None:
    """Gap at tokens 5 .. 9 of blocks of 4: tokens 10, 11 share block 2 with its end."""
    built, settings = model(), spec()
    mask = built.vae.config.mask_token_id

    def latents(right: list[int]) -> torch.Tensor:
        known = encode_known(
            built, [[1, 2, 3, 4, 5]], [5], rights=[right], pad=mask, gap_token=mask
        )
        assert known.known_Bk[0].tolist() == [True] + [False] * 5 + [True] * 2
        noise = GenerationDraws(built, settings, streams(1)).noise
        found = blocks(built, known, settings, count=2, noise=noise, uniform=None)
        made = torch.cat([block.latents for block in found], dim=1)
        assert torch.equal(made[known.known_Bk], known.known_Bkd[known.known_Bk])
        return made[0]

    base, inside, beyond = latents([11, 12, 13]), latents([20, 12, 13]), latents([11, 12, 30])
    moved = (inside - base).abs().amax(-1) > 0
    assert moved.tolist() == [False] * 4 + [True] * 4  # the second generated block, all of it
    assert torch.equal(beyond, base)
