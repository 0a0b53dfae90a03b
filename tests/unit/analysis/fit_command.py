"""`cola fit` as a user types it, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.cli import app
from cola.errors import FitError, SpecError
from tests.unit.analysis.printed import read


def written(path: Path, rows: pd.DataFrame) -> str:
    """The table as a CSV; its path as it is typed."""
    rows.to_csv(path, index=False)
    return str(path)


def text(*arguments: str) -> str:
    """What the command prints on a wide terminal."""
    result = CliRunner().invoke(
        app, ["fit", *arguments], catch_exceptions=False, env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    return result.output


def fitted(*arguments: str) -> dict[str, Any]:
    """The JSON of the command, as its schema has it."""
    result = CliRunner().invoke(app, ["fit", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return read("fit", result.stdout)


def refused(*arguments: str) -> str:
    """The command's error."""
    with pytest.raises((FitError, SpecError)) as caught:
        CliRunner().invoke(app, ["fit", *arguments], catch_exceptions=False, standalone_mode=False)
    return str(caught.value)
