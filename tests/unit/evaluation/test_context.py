"""What of a text a model reads where its context has no room for all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.errors import SpecError
from cola.evaluation.models.context import (
    cut_sentence,
    fitted_gap,
    fitted_prompt,
    room_for_prompts,
)
from cola.spec import GenerationSpec

LENGTHS = st.integers(0, 40)


@given(LENGTHS, st.integers(1, 50))
def test_a_prompt_keeps_its_end(length: int, room: int) -> None:
    prompt = list(range(length))
    kept, cut = fitted_prompt(prompt, room)
    assert kept == prompt[-room:]
    assert len(kept) + cut == length
    assert fitted_prompt(prompt, None) == (prompt, 0)


@given(LENGTHS, LENGTHS, st.integers(1, 90))
def test_a_gap_keeps_what_is_nearest_on_both_sides(before: int, behind: int, room: int) -> None:
    left, right = list(range(before)), list(range(100, 100 + behind))
    kept_left, kept_right, cut = fitted_gap(left, right, room)
    assert kept_left == left[before - len(kept_left) :]
    assert kept_right == right[: len(kept_right)]
    assert len(kept_left) + len(kept_right) + cut == before + behind
    # All of the room is used, and a side loses nothing while it has no more than its half.
    assert len(kept_left) + len(kept_right) == min(room, before + behind)
    assert len(kept_left) >= min(before, room - room // 2)
    assert len(kept_right) >= min(behind, room // 2)
    assert fitted_gap(left, right, None) == (left, right, 0)


def test_new_tokens_must_leave_room() -> None:
    assert room_for_prompts(None, GenerationSpec(max_new_tokens=10**6)) is None
    assert room_for_prompts(128, GenerationSpec(max_new_tokens=32)) == 96
    with pytest.raises(SpecError, match=r"max_new_tokens=128: leaves no room .* of 128 tokens"):
        room_for_prompts(128, GenerationSpec(max_new_tokens=128))


def test_the_sentence_names_the_cut() -> None:
    assert cut_sentence(469, 373, 128, 32) == (
        "the given text has 469 tokens, of which 373 were cut: the context of 128 tokens less 32 "
        "new ones has room for 96"
    )
