"""Items in the release's schema, taken apart into public records, are built again to the letter."""

from __future__ import annotations

from hashlib import sha256

import pytest

from tests.unit.evaluation.made_up import made_up_items
from tests.unit.evaluation.taken_apart import FORMS, built_again

# SHA-256, first 16 digits, of what all prompts of the release's files begin with.
PREFIXES = {
    "lambada": "e3b0c44298fc1c14",
    "mmlu": "cbcf09748af9c06b",
    "siqa": "3100d1d2fec0c99b",
    "squad": "3275ca49c2617f8c",
    "story_cloze": "61597f3125da495a",
    "obqa": "969f94a54c2fd0fa",
    "race": "975e9d191b5b6554",
    "hellaswag": "015569700927f216",
}


@pytest.mark.parametrize("task", FORMS)
def test_every_item_is_built_again_to_the_letter(task: str) -> None:
    items = made_up_items(task)
    built = [built_again(task, item) for item in items]
    assert [item.model_copy(update={"group": None}) for item in built] == items
    assert all((item.group is not None) == task.startswith("squad") for item in built)


@pytest.mark.parametrize("task", FORMS)
def test_the_prefix_is_the_releases(task: str) -> None:
    assert sha256(FORMS[task][0].encode()).hexdigest()[:16] == PREFIXES[task]
