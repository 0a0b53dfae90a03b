"""Values given apart from their specification take the form in which their key holds them."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.errors import SpecError
from cola.spec import load_yaml
from cola.spec.typed_values import converter
from cola.study import StudySpec

RATE = "training.optimizer.learning_rate"
KIND = "families.cola.objective.stage2.timestep.kind"
DIMENSION = "families.cola-d64.latent_dim"


@pytest.mark.parametrize(
    ("key", "value", "typed"),
    [
        (RATE, "1e-3", 0.001),
        (RATE, 1, 1.0),
        ("training.batch_sequences", 4.0, 4),
        ("training.batch_sequences", "8", 8),
        ("training.optimizer.grad_clip", None, None),
        ("training.optimizer.betas", ["0.9", 0.95], [0.9, 0.95]),
        ("training.optimizer", {"learning_rate": "1e-3"}, {"learning_rate": 0.001}),
        ("checkpoint.keep_best", "yes", True),
        ("training.schedule.kind", "wsd", "wsd"),
        (KIND, "uniform", "uniform"),
        (DIMENSION, "16", 16),
        ("ladder.0.budget", "1e12", 1e12),
    ],
)
def test_values_are_typed(key: str, value: Any, typed: Any) -> None:
    found = converter(StudySpec, key)(value)
    assert found == typed
    assert type(found) is type(typed)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (RATE, "1e-3 a step", "valid number"),
        (RATE, -1, "greater than 0"),
        (RATE, True, "must be a number, not a truth value"),
        (RATE, None, "valid number"),
        (RATE, [1e-3], "valid number"),
        (RATE, math.inf, "must be a finite number; write null"),
        (RATE, "inf", "must be a finite number; write null"),
        (RATE, datetime.date(2024, 1, 1), "is read as a date; put it in quotes"),
        ("training.batch_sequences", 4.5, "valid integer"),
        ("training.batch_sequences", "4k", "valid integer"),
        ("training.optimizer", {"learning_rat": 1}, "learning_rat: Extra inputs"),
        ("training.optimizer.betas", [0.9, math.nan], "must be a finite number"),
        ("training.schedule.kind", "linear", "'cosine', 'wsd' or 'constant'"),
    ],
)
def test_values_that_a_key_cannot_have_are_refused(key: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        converter(StudySpec, key)(value)
    assert "\n" not in str(refused.value)


@given(st.floats(min_value=1e-12, max_value=1e6))
def test_a_number_and_its_text_are_one_value(number: float) -> None:
    convert = converter(StudySpec, RATE)
    assert convert(repr(number)) == convert(number) == convert(f"{number:.17e}") == number
    assert convert(convert(number)) == number


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: 2024-01-01", "name: 2024-01-01 is read as a date; put it in quotes"),
        ("a: [{b: 2024-01-01 10:00:00}]", "a.0.b: 2024-01-01 10:00:00 is read as a date"),
        ("a: !!set {x, y}", "a: a value of the type set is none"),
        ("a: 1\nb: 2\na: 3", "key 'a' twice"),
        ("a: {b: 1, b: 2}", "key 'b' twice"),
    ],
)
def test_files_hold_plain_values_once(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as refused:
        load_yaml(path)
    assert reason in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_key_of_a_merged_mapping_may_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  a: 3\n")
    assert load_yaml(path)["other"] == {"a": 3, "b": 2}
