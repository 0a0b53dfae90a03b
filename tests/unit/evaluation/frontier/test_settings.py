"""At which settings a frontier is measured."""

from __future__ import annotations

import pytest

from cola.errors import SpecError
from cola.evaluation.frontier.settings import (
    AXES,
    axes_of,
    differences,
    neighbours,
    sampling_points,
)
from cola.families.registry import definition_of
from cola.spec import GenerationSpec

BASE = GenerationSpec(max_new_tokens=16).ancestral()


def test_keys_vary_one_at_a_time_and_only_those_that_a_family_reads() -> None:
    read = {"temperature", "top_p", "tokens_per_pass"}
    points = sampling_points(BASE, AXES, read)
    changed = [differences(point, BASE) for point in points]
    assert changed[0] == {}
    assert all(len(change) == 1 and set(change) <= read for change in changed[1:])
    assert len(points) == 1 + 5 + 4 + 3


def test_every_combination_is_measured_once() -> None:
    axes = {"temperature": [0.5, 1.0], "top_p": [0.9]}
    points = sampling_points(BASE, axes, axes.keys(), crossed=True)
    assert sorted((point.temperature, point.top_p or 1.0) for point in points) == [
        (0.5, 0.9), (0.5, 1.0), (1.0, 0.9), (1.0, 1.0),
    ]  # fmt: skip


def test_more_tokens_a_pass_than_there_are_is_one_pass() -> None:
    short = BASE.model_copy(update={"max_new_tokens": 4})
    points = sampling_points(short, {"tokens_per_pass": [2, 4, 8, 16]}, {"tokens_per_pass"})
    assert [point.tokens_per_pass for point in points] == [1, 2, 4]


def test_lines_join_neighbours_in_one_key() -> None:
    grid = [
        {"temperature": t, "top_p": p} for t in (1.0, 0.0, 0.5) for p in (None, 0.9)
    ]  # in any order
    joined = {
        tuple(sorted((a, b), key=lambda place: (grid[place]["temperature"], place)))
        for a, b in neighbours(grid)
    }
    # 0.0 and 1.0 are not joined, as 0.5 lies between; no line goes across both keys.
    assert joined == {(2, 4), (4, 0), (3, 5), (5, 1), (0, 1), (2, 3), (4, 5)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("temperature=0.5", "write it as KEY=VALUE"),
        ("generation.solver=heun", "write it as KEY=VALUE"),
        ("generation.temperature", "write it as KEY=VALUE"),
        ("generation.temperature=[", "not valid YAML"),
    ],
)
def test_what_is_no_axis_is_refused(given: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        axes_of([given])


def test_a_value_that_a_key_cannot_have_is_refused() -> None:
    axes = axes_of(["generation.top_p=0.9,1.5"])
    assert axes == {"top_p": [0.9, 1.5]}
    with pytest.raises(SpecError, match="top_p"):
        sampling_points(BASE, axes, definition_of("ar").generation_keys)
