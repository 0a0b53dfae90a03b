"""Documents that cannot be plain values are one line at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cola.errors import SpecError
from cola.spec import apply_overrides, load_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases that unfold to more than 100,000 values"),
        ("a: &a [*a]", "an alias for what it is a part of"),
        ("a: " + "[" * 5000, "is not valid YAML"),
        ("a: 1\na: 2", "key 'a' twice"),
        ("a: !!python/object/apply:os.system [id]", "is not valid YAML"),
    ],
)
def test_what_cannot_be_unfolded_is_one_line_at_once(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    began = time.monotonic()
    with pytest.raises(SpecError) as refusal:
        load_yaml(file)
    assert time.monotonic() - began < 5
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_alias_stands_for_its_values(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}")
    assert load_yaml(file) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def test_settings_are_read_by_the_same_rules() -> None:
    with pytest.raises(SpecError, match="the value is not valid YAML"):
        apply_overrides({}, ["a={x: 1, x: 2}"])
