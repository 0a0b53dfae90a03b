"""What `cola fit` does with its options: the fit, and what it prints."""

from __future__ import annotations

import json
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from analysis.fitting.choices import Progress
from analysis.fitting.table import Table, read_table
from analysis.table_fit.fit import fit_table
from analysis.table_fit.options import check_options, check_together
from analysis.table_fit.request import Request
from analysis.table_fit.text import shown
from analysis.tables.columns import Columns
from analysis.tables.json_numbers import without_nan
from cola.errors import FitError

PROGRESS_SECONDS = 5.0  # between two lines on how far the refits are


def fit_file(
    data: Path,
    columns: Columns,
    request: Request,
    *,
    drop_largest_losses: int,
    given: Set[str],
    as_json: bool,
) -> None:
    """Fit the table and print the result; `given` names the options that were typed.

    Raises:
        SpecError: an option would have no effect.
        FitError: the table cannot be read or fitted.
    """
    check_options(request.law, given)
    check_together(given, request)
    result = fitted(read_table(data, columns, drop_largest_losses), request, data)
    if as_json:
        typer.echo(json.dumps(without_nan(result), indent=1, allow_nan=False))
    else:
        show_fit(result, Console(markup=False, emoji=False))  # labels are text as written


def fitted(table: Table, request: Request, data: Path) -> dict[str, Any]:
    """What the table gives, and which rows were used.

    Raises:
        FitError: beginning with the file's name.
    """
    try:
        return fit_table(table, request) | {"rows": table.counts.as_json()}
    except FitError as error:
        raise FitError(f"{data}: {error}") from None


def show_fit(result: dict[str, Any], console: Console) -> None:
    """Parameters with intervals, what was chosen, compared and predicted, warnings."""
    for item in shown(result):
        console.print(item, highlight=False, soft_wrap=not isinstance(item, RichTable))
    for warning in result["warnings"]:
        console.print(
            f"note: {warning}", style="yellow", highlight=False, soft_wrap=True, markup=False
        )


def show_progress() -> Progress:
    """A line on stderr that counts refits, from some seconds on."""
    started, console = time.monotonic(), Console(stderr=True)
    last = started

    def show(done: int, count: int) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_SECONDS:
            last = time.monotonic()
            console.print(f"{done:,} of {count:,} refits, {last - started:.0f} s", highlight=False)

    return show
