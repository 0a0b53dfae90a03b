"""What the package says about itself: one version, and types for those who import it."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from tests.paths import LONG_TESTS, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("analysis", "cola", "orchestration", "sweeps")


def test_citation_and_changelog_have_the_version_of_the_package() -> None:
    version = PROJECT["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_ships_its_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"][package]


@pytest.mark.parametrize("name", LONG_TESTS.read_text().split())
def test_a_long_test_is_one_that_there_is(name: str) -> None:
    file, function = name.split("::")
    assert f"def {function}(" in (ROOT / file).read_text()
