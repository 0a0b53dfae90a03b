"""The command `cola benchmark`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cola.spec import apply_overrides
from cola.study import StudySpec
from orchestration.benchmark.benchmark import (
    Benchmark,
    Limits,
    check_device,
    command_line,
    default_runs,
    measured,
    new_folder,
)
from orchestration.benchmark.parts import Measured, batches_in, parts_of, planned
from orchestration.benchmark.process import MeasuringProcess
from orchestration.benchmark.text import as_text
from orchestration.planning.catalog import load_study, output_of
from orchestration.planning.units import rungs_in
from orchestration.state.paths import output_root

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def benchmark(
    study: Annotated[
        str | None,
        typer.Argument(
            help="A shipped study's name or a YAML file (default: every family at sizes of this "
            "device)."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Override a key: path.to.key=value (repeatable).", metavar="KEY=VALUE"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    *,
    rungs: Annotated[
        str | None,
        typer.Option(
            metavar="0-2,5", help="Sizes of these rungs of the ladder alone, counted from 0."
        ),
    ] = None,
    only: Annotated[
        Measured | None, typer.Option(help="Measure training or generation alone.")
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(
            help="Batch sizes of generation (default: 1,8; on a GPU 1,8,32,128).", metavar="1,8,32"
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Seconds of measured steps a stage.")
    ] = Limits.measured,
    part_limit: Annotated[
        float, typer.Option(help="Seconds after which one measurement is given up.")
    ] = Limits.part,
    limit: Annotated[
        float | None,
        typer.Option(help="Seconds of all measurements together; what they end is left out."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder of the results (default: <output>/benchmarks/STUDY-TIME)."),
    ] = None,
) -> None:
    """Measure this device: training and generation of a study's models, on random tokens.

    Tokens a second, MFU, memory against the plan; machine, versions and command stand beside.
    """
    limits, changes = Limits(seconds, part_limit, limit), settings or []
    given = None if study is None else load_study(study, changes)
    chosen = None if rungs is None else rungs_in(rungs)
    sizes = None if batches is None else batches_in(batches)
    with MeasuringProcess() as process:
        machine = process.start()
        left_out: list[str] = []
        if given is None:
            change = partial(changed_study, machine=machine, changes=changes)
            runs, left_out = default_runs(machine, change, chosen)
        else:
            check_device(given, machine)
            runs = planned(given, chosen)
        name = "benchmark" if given is None else given.name
        folder = default_folder(given, changes) if to is None else to.expanduser().resolve()
        found = Benchmark(command_line(), name, machine, sizes_left_out=left_out)
        parts = parts_of(
            runs,
            sizes or ((1, 8, 32, 128) if runs[0].resources.gpus_per_worker else (1, 8)),
            kinds=list(Measured) if only is None else [only],
        )
        for line in measured(process, parts, found, limits=limits, folder=folder):
            typer.echo(line, err=True)
    typer.echo(json.dumps(found.as_json(), indent=1) if as_json else as_text(found.as_json()))
    typer.echo(str(folder), err=as_json)
    if found.failed or not found.results:
        raise typer.Exit(1)


def default_folder(study: StudySpec | None, changes: list[str]) -> Path:
    """A new folder below the output folder of the study, or where there is none of the settings."""
    if study is None:
        return new_folder(output_of(changes), "benchmark")
    return new_folder(output_root(study), study.name)


def changed_study(
    values: dict[str, Any], *, machine: dict[str, Any], changes: list[str]
) -> StudySpec:
    """The study of these values with `--set` applied.

    Raises:
        SpecError: it is not valid then, or for a device that the machine lacks.
    """
    study = StudySpec.parse(apply_overrides(values, changes), origin="the benchmark's study")
    check_device(study, machine)
    return study
