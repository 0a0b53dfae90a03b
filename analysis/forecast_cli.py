"""`cola forecast`: forecasts of a study's larger budgets, registered before and scored after."""

from __future__ import annotations

from typing import Annotated

import typer

from cola.terminal import waiting

app = typer.Typer(no_args_is_help=True, help="Forecasts that are registered before a run.")

Study = Annotated[str, typer.Argument(help="The study's name (or its YAML file).")]
Output = Annotated[
    str | None, typer.Option(help="Output folder (default: the file's, or outputs).")
]
TrackingURI = Annotated[
    str | None, typer.Option(help="MLflow, or a reference to it (default: the study's).")
]
Families = Annotated[
    list[str] | None,
    typer.Option("--family", help="Only these families or variants (repeatable; default: all)."),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        help="A metric as in `cola report --metric` (default: the loss that reports fit)."
    ),
]
LawName = Annotated[
    str | None,
    typer.Option(help="A law of compute (default: the one that predicts larger budgets best)."),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def register(
    study: Study,
    target: Annotated[
        list[str] | None, typer.Option(help="Budget to forecast, c=FLOPS (repeatable).")
    ] = None,
    *,
    output: Output = None,
    tracking_uri: TrackingURI = None,
    family: Families = None,
    metric: MetricName = None,
    law: LawName = None,
    as_json: AsJSON = False,
) -> None:
    """Write down what the finished runs forecast for a budget, before its run has finished."""
    with waiting("loading the libraries"):
        from analysis import forecast_command
        from analysis.study_forecasts.registration import Asked
        from analysis.study_source import study_source

    source = study_source(study, output, tracking_uri)
    asked = Asked((), tuple(family or ()), metric, law)
    forecast_command.register(source, target or [], asked, as_json=as_json)


@app.command()
def score(
    study: Study,
    *,
    output: Output = None,
    tracking_uri: TrackingURI = None,
    family: Families = None,
    metric: MetricName = None,
    law: LawName = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="top, or a number: hold out so many of each curve's largest finished budgets, "
            "and score the law of the smaller ones against them. Nothing is registered."
        ),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Compare registered forecasts with the runs that have finished since."""
    with waiting("loading the libraries"):
        from analysis import forecast_command
        from analysis.study_forecasts.registration import Asked
        from analysis.study_source import study_source

    source = study_source(study, output, tracking_uri)
    asked = Asked((), tuple(family or ()), metric, law)
    forecast_command.score(source, hold_out, asked, as_json=as_json)
