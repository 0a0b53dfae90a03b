"""The table of families: the built-in ones, and what other packages add to it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from cola.errors import SpecError
from cola.families import registry
from cola.families.interface.definition import FamilyDefinition
from cola.families.registry import BUILT_IN, Registry, curve_label, curve_seed, registry_of
from cola.spec import GenerationSpec, LikelihoodSpec

GOOD = """
from cola.families.ar.definition import ARDefinition
from cola.families.ar.spec import ARModelSpec, ARSettings, NextToken
from typing import Literal
class MyModel(ARModelSpec):
    family: Literal["mine"] = "mine"
class MyObjective(NextToken):
    family: Literal["mine"] = "mine"
class MySettings(ARSettings):
    family: Literal["mine"] = "mine"
class Mine(ARDefinition):
    name, label = "mine", "Mine"
    settings, model, objective = MySettings, MyModel, MyObjective
MINE = Mine()
"""


@pytest.fixture
def package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Callable[[], Registry]]:
    """Writes a package with an entry point; returns what reads the registry with all of them."""
    monkeypatch.syspath_prepend(str(tmp_path))
    distributions: list[PathDistribution] = []

    def write(name: str, entry: str, content: str) -> Callable[[], Registry]:
        (tmp_path / f"{name}.py").write_text(content)
        folder = tmp_path / f"{name}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{entry}\n")
        distributions.append(PathDistribution(folder))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return lambda: registry_of([e for d in distributions for e in d.entry_points])

    return write


def test_a_package_adds_a_family_behind_the_built_in_ones(package: Callable[..., object]) -> None:
    found = package("mine_of_mine", "mine = mine_of_mine:MINE", GOOD)()
    assert list(found.families) == [family.name for family in BUILT_IN] + ["mine"]
    assert found.families["mine"].label == "Mine"
    assert found.broken == {}


@pytest.mark.parametrize(
    ("entry", "content", "reason"),
    [
        ("mine = mine_of_mine:MINE", "import not_there", "ModuleNotFoundError: No module named"),
        ("mine = mine_of_mine:THEIRS", GOOD, "has no attribute 'THEIRS'"),
        ("mine = mine_of_mine:Mine", GOOD, "not a FamilyDefinition object"),
        ("other = mine_of_mine:MINE", GOOD, "defines the family 'mine', not 'other'"),
        (
            "mine = mine_of_mine:MINE",
            GOOD.replace("settings, model, objective =", "settings, model, _ ="),
            "objective.family must be a Literal with the default 'mine'",
        ),
    ],
)
def test_a_broken_package_is_named_where_its_family_is_used(
    entry: str,
    content: str,
    reason: str,
    package: Callable[..., Callable[[], Registry]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = package("mine_of_mine", entry, content)()
    monkeypatch.setattr(registry, "registry", lambda: found)
    assert registry.names() == tuple(family.name for family in BUILT_IN)
    with pytest.raises(SpecError, match=r"of package mine_of_mine 1\.2 cannot be loaded") as caught:
        registry.definition_of(entry.partition(" ")[0])
    assert reason in str(caught.value)
    assert registry.family_of("ar").name == "ar"  # who does not use it is not bothered


def test_a_name_that_two_packages_claim_is_nobodys(package: Callable[..., object]) -> None:
    package("first_one", "mine = first_one:MINE", GOOD)
    found = package("second_one", "mine = second_one:MINE", GOOD)()
    assert "mine" not in found.families
    assert "comes from first_one 1.2 and from second_one 1.2" in found.broken["mine"]


def test_a_built_in_name_is_not_silently_taken_over(package: Callable[..., object]) -> None:
    found = package("thief", "ar = thief:MINE", GOOD)()
    assert "'ar' comes from cola-scaling and from thief 1.2" in found.broken["ar"]


def test_an_unknown_family_is_refused_with_those_there_are() -> None:
    with pytest.raises(SpecError, match=r"unknown family 'llama'; valid: .*; did you mean llada"):
        registry.definition_of("llama")


def test_a_curves_seed_depends_on_its_name_alone() -> None:
    seeds = {name: curve_seed(name, name) for name in ("ar", "llada", "cola")}
    assert seeds == {"ar": 0, "llada": 1, "cola": 2}
    variants = {curve_seed(name, "cola") for name in ("cola-d16", "cola-d64", "a", "b")}
    assert len(variants | set(seeds.values())) == 7
    assert curve_seed("cola-d16", "cola") == curve_seed("cola-d16", "ar")
    assert [curve_label("cola", "cola"), curve_label("cola-d16", "cola")] == [
        "Cola DLM",
        "cola-d16",
    ]


@pytest.mark.parametrize("family", BUILT_IN, ids=lambda family: family.name)
def test_a_family_only_reads_keys_that_there_are(family: FamilyDefinition) -> None:
    assert family.generation_keys <= GenerationSpec.model_fields.keys()
    assert family.likelihood_keys <= LikelihoodSpec.model_fields.keys()


def test_every_key_of_generation_and_likelihood_is_read_by_a_family() -> None:
    generation = frozenset().union(*(family.generation_keys for family in BUILT_IN))
    likelihood = frozenset().union(*(family.likelihood_keys for family in BUILT_IN))
    assert generation == GenerationSpec.model_fields.keys()
    assert likelihood == LikelihoodSpec.model_fields.keys()


def test_built_in_families_are_told_apart_by_colour_and_by_line() -> None:
    looks = [family.look for family in BUILT_IN]
    assert len({look.colour for look in looks}) == len({look.line for look in looks}) == len(looks)
