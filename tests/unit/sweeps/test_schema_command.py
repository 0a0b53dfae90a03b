"""`cola schema`: sweeps by their schema, the two formats, and the page of the documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from cola.errors import SpecError, StorageError
from cola.spec.schema import json_schema
from cola.study import StudySpec
from sweeps.cli import app
from sweeps.schema_cli import RENEW, SPECIFICATIONS, Kind, configuration_page
from sweeps.space.catalog import shipped_sweeps
from sweeps.space.spec import SweepSpec

ROOT = Path(__file__).resolve().parents[3]
SWEEP = Draft202012Validator(json_schema(SweepSpec))
RATE = "training.optimizer.learning_rate"
SMALLEST: dict[str, Any] = {"name": "s", "study": "demo", "space": {RATE: [1e-3, 2e-3]}}


@pytest.mark.parametrize("path", shipped_sweeps().values(), ids=lambda path: path.stem)
def test_every_shipped_sweep_is_valid(path: Path) -> None:
    assert list(SWEEP.iter_errors(yaml.safe_load(path.read_text()))) == []


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps/bases").glob("*.yaml")), ids=str)
def test_every_base_study_is_valid_with_the_name_that_its_sweep_gives_it(path: Path) -> None:
    study = Draft202012Validator(json_schema(StudySpec))
    named = {"name": "given"} | yaml.safe_load(path.read_text())
    assert list(study.iter_errors(named)) == []


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({"budget": {"trials": 4}}, True),
        ({"budget": {"trial": 4}}, False),
        ({"space": {RATE: {"values": [1]}}, "algorithm": {"kind": "grid"}}, True),
        ({"space": {RATE: []}, "budget": {"trials": 4}}, False),
        ({"space": {RATE: {"kind": "uniform", "low": 0}}, "budget": {"trials": 4}}, False),
        ({"space": {RATE: {"low": 0, "high": 1}}, "budget": {"trials": 4}}, False),
        ({"scales": {"phone": {}}}, False),
        ({"scales": {"laptop": {"space": {RATE: [1]}}}}, True),
        ({"answer": {"key": RATE, "over": RATE}, "budget": {"trials": 4}}, False),
    ],
)
def test_the_schema_takes_what_the_command_takes(change: dict[str, Any], valid: bool) -> None:
    values = SMALLEST | change
    assert SWEEP.is_valid(values) == valid
    if valid:
        SweepSpec.parse(values)
    else:
        with pytest.raises(SpecError):
            SweepSpec.parse(values)


def test_the_configuration_page_is_what_the_specifications_say() -> None:
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text() == configuration_page(list(SPECIFICATIONS)), f"renew it by `{RENEW}`"


def test_the_command_prints_and_writes_both_formats(tmp_path: Path) -> None:
    def printed(*given: str) -> str:
        result = CliRunner().invoke(app, ["schema", *given])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert json.loads(printed()) == json_schema(StudySpec)
    path = tmp_path / "sweep.json"
    assert printed("sweep", "--to", str(path)) == f"{path}\n"
    assert json.loads(path.read_text()) == json_schema(SweepSpec)
    assert printed("--markdown") == configuration_page(list(SPECIFICATIONS))
    assert printed("sweep", "--markdown") == configuration_page([Kind.SWEEP])
    for kind in ("fit", "compare", "forecast"):
        assert json.loads(printed(kind))["title"].startswith(f"cola {kind}")
    refusal = CliRunner().invoke(app, ["schema", "fit", "--markdown"]).exception
    assert "is what a command prints" in str(refusal)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    given = ["schema", "--to", str(tmp_path / "absent" / "study.json")]
    error = CliRunner().invoke(app, given).exception
    assert isinstance(error, StorageError)
    assert str(error).startswith(f"--to {tmp_path}/absent/study.json: cannot be written (No such")
