"""What `cola compare` does with its options, and what it prints."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from analysis.comparison.comparison import Comparison, as_json, compare, figure_of
from analysis.comparison.sides import Side
from analysis.import_command import Options, imported_from
from analysis.imports.mapping import parse_map
from analysis.imports.record import frames_of
from analysis.imports.source import is_store
from analysis.plotting.files import check_plot, draw_to
from analysis.study_source import is_study_folder, study_source
from analysis.tables.json_numbers import json_text
from cola.errors import SpecError
from cola.terminal import say

SCHEMA = 1  # of the JSON


def compare_studies(
    first: str,
    second: str,
    output: str | None,
    *,
    options: Options,
    different_data: bool,
    plot: Path | None,
    as_json_: bool,
) -> None:
    """Compare two studies, or a study and a table, and print what they say of each other.

    Raises:
        SpecError: one of them is neither, or they cannot be compared.
    """
    if plot is not None:
        check_plot(plot)
    tables = [is_table(each, output) for each in (first, second)]
    if options != Options() and not any(tables):
        raise SpecError("--map and what reads a table: neither of the two is one; leave them out")
    sides = [
        table_side(each, options) if table else study_side(each, output)
        for each, table in zip((first, second), tables, strict=True)
    ]
    if sides[0].name == sides[1].name:
        sides = [
            Side(f"{s.name} ({n})", s.frames, s.spec) for n, s in zip("AB", sides, strict=True)
        ]
    found = compare(sides[0], sides[1], different_data=different_data)
    where = None if plot is None else draw_to(figure_of(found), plot)
    if as_json_:
        values = (
            {"schema": SCHEMA} | as_json(found) | {"plot": None if where is None else str(where)}
        )
        typer.echo(json_text(values))
        return
    show(found, Console(markup=False, emoji=False))
    if where is not None:
        typer.echo(f"figure: {where}")


def is_table(place: str, output: str | None) -> bool:
    """Whether an argument names a table or another source of runs, and no study."""
    root = Path(output or "outputs").expanduser()
    if is_study_folder(root / "studies" / place) or is_study_folder(Path(place)):
        return False
    if place.endswith((".yaml", ".yml")):
        return False
    return is_store(place) or Path(place).expanduser().exists()


def table_side(place: str, options: Options) -> Side:
    """Runs of a table, read as `cola import` reads them."""
    if not options.maps:
        parse_map([])
        raise SpecError(
            f"{place}: is a table: say which columns have what (--map n=...,d=...,loss=...)"
        )
    name = place.rpartition("/")[2] or place
    return Side(name, frames_of(imported_from(place, "table", options)))


def study_side(study: str, output: str | None) -> Side:
    """A study's runs."""
    source = study_source(study, output, None)
    return Side(source.name, source.frames(), None if source.imported else source.spec)


def show(found: Comparison, console: Console) -> None:
    """Curves, what pairs say, and notes."""
    for curves in found.curves:
        for fit in curves.fits.values():
            say(console, f"{fit.label} ({fit.kind}): {fit.formula}")
    for sentence in found.sentences:
        say(console, sentence)
    for note in found.notes:
        say(console, f"note: {note}", "yellow")
