"""What `cola fit` does with its options: the fit, and what it prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from analysis.fit_design import DesignFile
from analysis.fitting.choices import Progress, Setting
from analysis.fitting.table import Table, read_table
from analysis.regressions.settings import rules_text, settings_group
from analysis.regressions.speedup import speedup
from analysis.table_fit.conventions import Convention, apart, side_by_side
from analysis.table_fit.fit import fit_table
from analysis.table_fit.held_out import windowed
from analysis.table_fit.options import check_conventions, check_options, check_power, check_together
from analysis.table_fit.request import Request
from analysis.table_fit.text import shown
from analysis.tables.columns import Columns, read_columns
from analysis.tables.json_numbers import json_text
from cola.errors import FitError, SpecError
from cola.terminal import say, waiting

PROGRESS_SECONDS = 5.0  # between two lines on how far the refits are


VERSION = 1  # of the JSON: raised where a key changes its meaning or goes


@dataclass(frozen=True)
class Extras:
    """Options that are no part of a fit of one law: rows that are left out, a rule's file and
    name, a comparison of two groups at a few gates, columns of conventions side by side, a
    study's design to write."""

    drop_largest_losses: int = 0
    rules: Path | None = None
    setting: Setting | None = None
    speedup: bool = False
    baseline: str | None = None
    n: tuple[str, ...] = ()
    flops: tuple[str, ...] = ()
    design: DesignFile | None = None

    @property
    def conventions(self) -> list[Convention]:
        """Every way to count parameters and compute that was asked for."""
        names, amounts = self.n or (None,), self.flops or (None,)
        return [Convention(n, flops) for n in names for flops in amounts]


def fit_file(
    data: Path,
    columns: Columns,
    request: Request,
    extras: Extras,
    *,
    given: Set[str],
    as_json: bool,
) -> None:
    """Fit the table and print the result; `given` names the options that were typed.

    Raises:
        SpecError: an option would have no effect.
        FitError: the table cannot be read or fitted.
    """
    check_options(request.law, given)
    several = len(extras.conventions) > 1
    if several:
        check_conventions(request.law, given, (extras.n, extras.flops))
    with waiting(f"fitting {data.name}") as following:
        request = replace(request, progress=show_progress(following))
        if extras.speedup:
            result = compared(data, columns, request, extras)
        elif request.law == "power":
            check_power(given)
            result = power(data, columns, extras, from_losses="loss" in given, level=request.level)
        else:
            check_together(given, request)
            if several:
                result = of_conventions(data, columns, request, extras)
            else:
                table = read_table(data, columns, extras.drop_largest_losses)
                result = fitted(table, request, data)
    if extras.design is not None:
        extras.design.write(result, f"cola fit {data.name}")
        result["design_file"] = str(extras.design.path)
    result = {"version": VERSION, "level": request.level} | result
    if as_json:
        typer.echo(json_text(result))
    else:
        show_fit(result, Console(markup=False, emoji=False))  # labels are text as written


def of_conventions(
    data: Path, columns: Columns, request: Request, extras: Extras
) -> dict[str, Any]:
    """Every convention side by side.

    Raises:
        FitError: beginning with the file's name.
    """
    asked, note = apart(extras.conventions, request.law, tokens=columns.d is not None)
    tables = {
        each: read_table(
            data, replace(columns, n=each.n, compute=each.flops), extras.drop_largest_losses
        )
        for each in asked
    }
    try:
        result = side_by_side(tables, request)
        result["warnings"] = [*note, *result["warnings"]]
    except FitError as error:
        raise FitError(f"{data}: {error}") from None
    counts = [
        {"n": each.n, "flops": each.flops} | table.counts.as_json()
        for each, table in tables.items()
    ]
    return result | {"rows": counts}


def power(
    data: Path, columns: Columns, extras: Extras, *, from_losses: bool, level: float
) -> dict[str, Any]:
    """A setting over size, tokens or compute; its rule is written where it is asked for.

    Raises:
        FitError: beginning with the file's name.
    """
    read = read_columns(data, columns if from_losses else replace(columns, loss=None))
    try:
        result = settings_group(read.rows, from_losses=from_losses, level=level)
    except FitError as error:
        raise FitError(f"{data}: {error}") from None
    result["warnings"] = [*read.notes, *result["warnings"]]
    if extras.rules is not None and extras.setting is not None:
        text = rules_text(
            result, extras.setting, origin=f"cola fit {data.name} --y {columns.setting}"
        )
        try:
            extras.rules.write_text(text)
        except OSError as error:
            raise SpecError(
                f"--rules {extras.rules}: cannot be written ({error.strerror}); give another file"
            ) from None
        result["rules_file"] = str(extras.rules)
    return result | {"rows": read.counts.as_json()}


def compared(data: Path, columns: Columns, request: Request, extras: Extras) -> dict[str, Any]:
    """One change against a baseline.

    Raises:
        FitError: beginning with the file's name.
    """
    pinned = request.constraints.pinned
    if set(pinned) != {"E"}:
        raise SpecError("--pin: --speedup takes E=VALUE alone, the floor of the losses' evaluation")
    table = read_table(data, columns)
    try:
        result = speedup(
            table.rows,
            pinned["E"],
            baseline=extras.baseline,
            tokens_a_second=columns.d is not None,
            level=request.level,
        )
    except FitError as error:
        raise FitError(f"{data}: {error}") from None
    result["warnings"] = [*table.notes, *result["warnings"]]
    return result | {"rows": table.counts.as_json()}


def fitted(table: Table, request: Request, data: Path) -> dict[str, Any]:
    """What the table gives, and which rows were used.

    Raises:
        FitError: beginning with the file's name.
    """
    try:
        table, window = windowed(table, request)
        result = fit_table(table, request)
        if window is not None:
            result["window"] = window
        return result | {"rows": table.counts.as_json()}
    except FitError as error:
        raise FitError(f"{data}: {error}") from None


def show_fit(result: dict[str, Any], console: Console) -> None:
    """Parameters with intervals, what was chosen, compared and predicted, warnings."""
    for item in shown(result):
        if isinstance(item, RichTable):
            console.print(item, highlight=False)
        else:
            say(console, item.plain)
    if "design_file" in result:
        say(console, f"written to {result['design_file']}, for --set @{result['design_file']}")
    for warning in result["warnings"]:
        say(console, f"note: {warning}", "yellow")


def show_progress(following: Callable[[str], None]) -> Progress:
    """Counts refits: beside the clock of `following`, and where no person sees that in a line on
    stderr now and then."""
    started, console = time.monotonic(), Console(stderr=True)
    last = started

    def show(done: int, count: int) -> None:
        nonlocal last
        following(f"{done:,} of {count:,} refits")
        if not console.is_terminal and time.monotonic() - last > PROGRESS_SECONDS:
            last = time.monotonic()
            console.print(f"{done:,} of {count:,} refits, {last - started:.0f} s", highlight=False)

    return show
