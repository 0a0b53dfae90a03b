"""What `cola import` does with its options, and what it prints."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from analysis.imports.mapping import (
    check_columns,
    parse_conditions,
    parse_map,
    parse_pattern,
    wanted_columns,
)
from analysis.imports.record import Imported, imported_of, sentences, write_import
from analysis.imports.runs import Counted, LossUnit, Reading, read_runs
from analysis.imports.source import read_source
from cola.errors import SpecError
from cola.terminal import say

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # of a study


@dataclass(frozen=True)
class Options:
    """How a source is read, as it was typed."""

    maps: Sequence[str] = ()
    name_pattern: str | None = None
    where: Sequence[str] = ()
    drop_missing: bool = False
    experiment: str | None = None
    loss_unit: LossUnit | None = None
    parameters: Counted | None = None
    family: str | None = None


def imported_from(place: str, study: str, options: Options) -> Imported:
    """The runs of a source, read and checked.

    Raises:
        SpecError: the source, or an option, is not what it should be.
    """
    mapping, conditions = parse_map(options.maps), parse_conditions(options.where)
    pattern = parse_pattern(options.name_pattern)
    wanted = wanted_columns(mapping, conditions)
    source = read_source(place, wanted, options.experiment)
    option = {column: f"--map {field}" for field, column in mapping.items()}
    if source.rows:
        check_columns(source, wanted, option)
    reading = Reading(
        mapping, pattern, conditions, options.drop_missing, options.loss_unit, options.parameters,
        options.family,
    )  # fmt: skip
    found = read_runs(source, reading)
    return imported_of(
        study, found, kind=source.kind, source=source.place, mapping=mapping,
        counted=options.parameters,
    )  # fmt: skip


def import_source(
    place: str,
    study: str,
    output: str | None,
    *,
    options: Options,
    replace: bool,
    as_json: bool,
) -> None:
    """Read a source, write it as a study, and print what was read.

    Raises:
        SpecError: a name that a study cannot have, or what `imported_from` refuses.
        StorageError: it cannot be written.
    """
    if not NAME.fullmatch(study):
        raise SpecError(
            f"--study {study!r}: give a name of small letters, digits, ., _ and - (at most 64)"
        )
    root = Path(output or "outputs").expanduser().resolve()
    imported = imported_from(place, study, options)
    path = write_import(root / "studies" / study, imported, replace=replace)
    if as_json:
        values = imported.model_dump(mode="json", by_alias=True) | {"file": str(path)}
        typer.echo(json.dumps(values, indent=1, allow_nan=False))
        return
    console = Console(markup=False, emoji=False)
    families = sorted({run.family for run in imported.runs})
    budgets = [run.budget for run in imported.runs]
    say(
        console,
        f"{study}: {len(imported.runs)} runs of {', '.join(families)} between {min(budgets):.3g} "
        f"and {max(budgets):.3g} FLOPs",
    )
    for sentence in sentences(imported):
        say(console, f"note: {sentence}", "yellow")
    say(console, f"import: {path}; `cola report {study}`")
