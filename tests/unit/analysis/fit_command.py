"""`cola fit` as a user types it, and what it answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.cli import app
from cola.errors import FitError, SpecError


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
    """The JSON of the command."""
    result = CliRunner().invoke(app, ["fit", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def refused(*arguments: str) -> str:
    """The command's error."""
    with pytest.raises((FitError, SpecError)) as caught:
        CliRunner().invoke(app, ["fit", *arguments], catch_exceptions=False, standalone_mode=False)
    return str(caught.value)
