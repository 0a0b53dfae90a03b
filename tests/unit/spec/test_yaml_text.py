"""Documents that cannot be plain values are one line at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cola.errors import SpecError
from cola.spec import apply_overrides, load_yaml
from cola.spec.yaml_text import dump_yaml, parse_yaml
from cola.study import StudySpec

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


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e6", 1e6), ("1.0e6", 1e6), ("-2.5E+3", -2500.0), ("1e-3", 1e-3), (".5e1", 5.0)],
)
def test_exponents_need_no_sign_and_no_point(text: str, value: float) -> None:
    assert parse_yaml(text) == value
    assert parse_yaml(dump_yaml(value)) == value
    assert parse_yaml(dump_yaml(text)) == text, "text stays text"


@pytest.mark.parametrize("text", ["e5", "1e", "12e34ab", "v1e5", "1_e5x"])
def test_names_that_hold_an_e_are_text(text: str) -> None:
    assert parse_yaml(text) == text


def test_whole_numbers_may_have_exponents(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: a\nfamilies: [ar]\nladder: [{budget: 1e12, core_parameters: 1e6}]\nseeds: [1e1]\n"
    )
    study = StudySpec.parse(load_yaml(path))
    assert (study.ladder[0].core_parameters, study.seeds) == (1_000_000, [10])
    assert StudySpec.parse(parse_yaml(study.to_yaml())) == study


def test_keys_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: a\nset: {2024-01-01: 3}\n")
    with pytest.raises(SpecError, match=r"^set\.2024-01-01: the key 2024-01-01 is read as a date"):
        load_yaml(path)
