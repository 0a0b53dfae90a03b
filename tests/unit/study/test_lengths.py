"""Defaults that do not contradict each other: short sequences have short prompts."""

from __future__ import annotations

from typing import Any

import pytest

from cola.errors import SpecError
from cola.study import StudySpec
from cola.study.task_lengths import NEW, PROMPT


def lengths(tiny_study: dict[str, Any], length: int, **evaluation: Any) -> tuple[int, int]:
    values = {
        **tiny_study,
        "families": {"ar": {}},
        "data": {**tiny_study["data"], "sequence_length": length},
        "evaluation": evaluation,
    }
    found = StudySpec.parse(values).evaluation
    return found.prompt_tokens, found.generation.max_new_tokens


@pytest.mark.parametrize("length", [8, 16, 17, 64, 95])
def test_a_short_sequence_shortens_prompt_and_continuation(
    tiny_study: dict[str, Any], length: int
) -> None:
    prompt, new = lengths(tiny_study, length)
    assert prompt == length // 3
    assert prompt + new == length


def test_a_long_one_has_the_defaults(tiny_study: dict[str, Any]) -> None:
    assert lengths(tiny_study, PROMPT + NEW) == (PROMPT, NEW)
    assert lengths(tiny_study, 256) == (PROMPT, NEW)


def test_what_is_given_stays(tiny_study: dict[str, Any]) -> None:
    assert lengths(tiny_study, 32, prompt_tokens=20) == (20, 12)
    assert lengths(tiny_study, 32, generation={"max_new_tokens": 8, "steps": 4}) == (24, 8)
    assert lengths(tiny_study, 80, generation={"max_new_tokens": 8}) == (PROMPT, 8)
    for evaluation in ({"prompt_tokens": 40}, {"generation": {"max_new_tokens": 64}}):
        with pytest.raises(SpecError, match=r"must fit data\.sequence_length=32"):
            lengths(tiny_study, 32, **evaluation)
