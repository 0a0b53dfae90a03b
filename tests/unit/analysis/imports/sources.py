"""Runs of another project, made up in the formats of its trackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from typer.testing import CliRunner

from analysis.cli import app
from cola.errors import ColaError

MAP = "n=config.model.n_params,d=train/tokens,loss=val/loss,family=config.arch"
COMPUTE = (1e18, 4e18, 1.6e19, 6.4e19, 2.56e20)
DELAY = 3.0  # times the compute that `slow` needs for a loss of `fast`


def loss_at(compute: float, family: str = "fast") -> float:
    """Nats a token, without noise."""
    return 1.7 + 2.0 * (compute / (DELAY if family == "slow" else 1.0) / 1e18) ** -0.15


def wandb_rows(families: tuple[str, ...] = ("fast", "slow")) -> list[dict[str, Any]]:
    """A table of runs as W&B exports it, N and D at 20 tokens a parameter."""
    rows = []
    for family in families:
        for compute in COMPUTE:
            size = round((compute / 120) ** 0.5)
            spent = 6.0 * size * 20 * size
            rows.append(
                {
                    "Name": f"{family}-{compute:.2e}",
                    "State": "finished",
                    "Runtime": 3600,
                    "config.arch": family,
                    "config.model.n_params": size,
                    "train/tokens": 20 * size,
                    "val/loss": loss_at(spent, family),
                }
            )
    return rows


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as CSV, JSON lines or Parquet, by the file's ending."""
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ran(*arguments: str) -> str:
    """What a command prints.

    Raises:
        ColaError: what it refuses.
    """
    found = CliRunner().invoke(app, list(arguments))
    if isinstance(found.exception, ColaError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.stdout


def imported(source: str, output: Path, *arguments: str, map_: str | None = MAP) -> Any:
    """The JSON of `cola import`."""
    maps = [] if map_ is None else ["--map", map_]
    return json.loads(
        ran(
            "import", source, "--study", "ext", "--output", str(output), *maps, "--json", *arguments
        )
    )
