"""The commands of analysis: report on a study, fit a scaling law to any table.

What they do is imported when they do it: libraries for tables, fits and figures take a second, for
which no other command should wait.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis import fit_options as options
from analysis import import_options as imports
from analysis.forecast_cli import app as forecast_app
from cola.terminal import waiting

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.add_typer(forecast_app, name="forecast")


@app.command()
def report(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="The study's name (or its YAML file).")],
    output: Annotated[
        str | None, typer.Option(help="Output folder (default: the file's, or outputs).")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow, or a reference to it (default: the study's).")
    ] = None,
    *,
    target: Annotated[
        list[float] | None,
        typer.Option(help="Budget (FLOPs) to predict the loss at (repeatable)."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Fit this metric in place of the validation loss: a name in MLflow, a task (its "
            "accuracy), few-shot or in-domain (all of their tasks and the average); repeatable. "
            "Writes metrics.html."
        ),
    ] = None,
    publish: Annotated[
        Path | None,
        typer.Option(
            help="Also write the report, and the page of metrics, as a folder for a repository: "
            "README.md, vector figures, tables, the study and its forecasts."
        ),
    ] = None,
    as_json: options.AsJSON = False,
) -> None:
    """Fit the study's scaling curves and write report.html, report.md, figures and tables."""
    with waiting("loading the libraries"):
        from analysis.report_command import report_study

    folder = report_study(
        study, output, tracking_uri, targets=target or [], metrics=metric or [],
        publish_to=publish, as_json=as_json,
    )  # fmt: skip
    if context.obj is not None and tracking_uri is None:
        context.obj.store_report(folder)


@app.command()
def fit(
    context: typer.Context,
    data: options.Data,
    *,
    n: options.ParameterColumns = None,
    d: options.TokenColumn = None,
    loss: options.LossColumn = "loss",
    flops: options.FLOPsColumns = None,
    group: options.GroupColumn = None,
    budget: options.BudgetColumn = None,
    run: options.RunColumn = None,
    accuracy: options.AccuracyColumn = None,
    chance: options.Chance = 0.0,
    law: options.LawName = None,
    minimum: options.Minimum = "parabola",
    estimator: options.Estimator = "huber",
    drop_largest_losses: options.LargestLosses = 0,
    bootstrap: options.Refits = 1000,
    resample: options.Resample = None,
    seed: options.Seed = 0,
    level: options.Level = 0.95,
    predict: options.Targets = None,
    unique: options.UniqueColumn = None,
    pin: options.Pins = None,
    bound: options.Bounds = None,
    share: options.Share = None,
    serve: options.Serve = None,
    hold_out: options.HoldOut = None,
    start: options.Start = None,
    y: options.SettingColumn = None,
    rules: options.RulesFile = None,
    setting: options.RuleName = None,
    speedup: options.Speedup = False,
    baseline: options.Baseline = None,
    throughput: options.ThroughputColumn = None,
    step: options.StepColumn = None,
    lr: options.RateColumn = None,
    design: options.DesignFile = None,
    counts: options.Counts = None,
    plot: options.Plot = None,
    as_json: options.AsJSON = False,
) -> None:
    """Fit a scaling law to a table of training runs, with intervals and warnings."""
    with waiting("loading the libraries"):
        from analysis.fit_command import Extras, fit_file
        from analysis.fit_design import DesignFile
        from analysis.fit_drawing import Drawing
        from analysis.fitting.laws import usual_law
        from analysis.table_fit import options as parsing
        from analysis.table_fit.request import Request
        from analysis.tables.columns import Columns

    usual, law = law is None, law or usual_law(sized=bool(n))
    if law == "annealing":
        from analysis.curve_command import Asked, fit_curve_file

        columns = Columns(None, first(n), group=group, run=run, step=step, rate=lr, measured=loss)
        asked = Asked(estimator, bootstrap, seed, tuple(predict or []), tuple(pin or []),
                      tuple(bound or []), plot, level)  # fmt: skip
        given = given_options(context) - {"plot"}
        fit_curve_file(data, columns, asked, given=given, as_json=as_json)
        return
    drawing = Drawing.asked(plot, "speedup" if speedup else law, conventions(n, flops))
    fit_file(
        data,
        Columns(loss, first(n), d, first(flops), group, budget, run, accuracy, unique, y,
                throughput),
        Request(law, estimator, bootstrap, seed, resample,
                tuple(map(parsing.parse_target, predict or [])), chance, minimum,
                constraints=parsing.parse_constraints(pin or [], bound or []),
                share=parsing.parse_share(share), serving=parsing.parse_serving(serve),
                hold_out=hold_out, start=parsing.parse_start(start), usual=usual, level=level,
                on_group=drawing.add if drawing else None),
        Extras(drop_largest_losses, rules, setting, speedup, baseline, tuple(n or []),
               tuple(flops or []), DesignFile.asked(design, counts, first(n), predict or [])),
        given=given_options(context) - {"plot", "design", "counts"},
        as_json=as_json,
    )  # fmt: skip
    if drawing is not None:
        typer.echo(f"figure: {drawing.write()}", err=as_json)


@app.command("import")
def import_runs(
    source: imports.Place,
    study: imports.StudyName,
    *,
    output: Annotated[str | None, typer.Option(help="Output folder (default: outputs).")] = None,
    map_: imports.Maps = None,
    name_pattern: imports.NamePattern = None,
    where: imports.Where = None,
    drop_missing: imports.DropMissing = False,
    experiment: imports.Experiment = None,
    loss_unit: imports.Unit = None,
    parameters: imports.Parameters = None,
    family: imports.Family = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of an earlier import of this name.")
    ] = False,
    as_json: options.AsJSON = False,
) -> None:
    """Read another project's runs and keep them as a study, for report, compare and forecast."""
    with waiting("loading the libraries"):
        from analysis.import_command import Options, import_source

    read = Options(
        map_ or [], name_pattern, where or [], drop_missing, experiment, loss_unit, parameters,
        family,
    )  # fmt: skip
    import_source(source, study, output, options=read, replace=replace, as_json=as_json)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A study: its name, YAML file or folder.")],
    second: Annotated[str, typer.Argument(help="Another one, or a table of runs (--map).")],
    *,
    output: Annotated[str | None, typer.Option(help="Output folder (default: outputs).")] = None,
    map_: imports.Maps = None,
    name_pattern: imports.NamePattern = None,
    where: imports.Where = None,
    drop_missing: imports.DropMissing = False,
    experiment: imports.Experiment = None,
    loss_unit: imports.Unit = None,
    parameters: imports.Parameters = None,
    family: imports.Family = None,
    different_data: Annotated[
        bool,
        typer.Option(
            "--different-data",
            help="Compare losses of texts that are known to differ; every number says so.",
        ),
    ] = False,
    plot: options.Plot = None,
    as_json: options.AsJSON = False,
) -> None:
    """Compare two studies, or a study and a table: how much less compute for the same loss."""
    with waiting("loading the libraries"):
        from analysis.compare_command import compare_studies
        from analysis.import_command import Options

    read = Options(
        tuple(map_ or ()), name_pattern, tuple(where or ()), drop_missing, experiment, loss_unit,
        parameters, family,
    )  # fmt: skip
    compare_studies(
        first, second, output, options=read, different_data=different_data, plot=plot,
        as_json_=as_json,
    )  # fmt: skip


def conventions(n: list[str] | None, flops: list[str] | None) -> int:
    """In how many ways parameters or FLOPs are counted: columns of the kind that has more."""
    return max(len(n or [1]), len(flops or [1]))


def first(names: list[str] | None) -> str | None:
    """The first of the columns; None of none."""
    return names[0] if names else None


def given_options(context: typer.Context) -> set[str]:
    """Names of the parameters that were typed."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
