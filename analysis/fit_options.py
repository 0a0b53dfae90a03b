"""The options of `cola fit`, each with its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.fitting import choices
from analysis.profiles.method import Method

Data = Annotated[
    Path, typer.Argument(help="A CSV with a header and one row a run (or evaluation).")
]
ParameterColumn = Annotated[
    str | None,
    typer.Option(
        "--n",
        help="Column of parameters N, a count: with embeddings as published (Hoffmann), or "
        "without (Kaplan), but one convention for all rows, as exponents depend on it.",
    ),
]
TokenColumn = Annotated[
    str | None, typer.Option("--d", help="Column of training tokens D (default: C / 6 N).")
]
LossColumn = Annotated[str, typer.Option(help="Column of the loss, nats a token.")]
FLOPsColumn = Annotated[
    str | None, typer.Option(help="Column of training compute C, FLOPs (default: 6 N D).")
]
GroupColumn = Annotated[
    str | None, typer.Option(help="Column of labels of the families to fit apart.")
]
BudgetColumn = Annotated[
    str | None,
    typer.Option(help="Column of the budget, FLOPs or labels (default: runs of alike compute)."),
]
RunColumn = Annotated[
    str | None, typer.Option(help="Column of what is resampled together (a run, a seed).")
]
AccuracyColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of task accuracy (0 to 1, empty where there is none): loss -> accuracy by "
        "a sigmoid."
    ),
]
Chance = Annotated[float, typer.Option(help="Accuracy of guessing.")]
LawName = Annotated[
    choices.AnyLaw | None,
    typer.Option(
        help="auto chooses by rolling origin. Default: chinchilla where sizes are known, else "
        "compute."
    ),
]
Minimum = Annotated[Method, typer.Option(help="How a profile's minimum is found (law isoflop).")]
Estimator = Annotated[choices.Estimator, typer.Option()]
LargestLosses = Annotated[
    int, typer.Option(min=0, help="Leave out this many rows of largest loss.")
]
Refits = Annotated[int, typer.Option(min=0, help="Refits for the intervals; 0: no intervals.")]
Resample = Annotated[
    choices.Kind | None, typer.Option(help="What a refit draws (default: by the number of runs).")
]
Seed = Annotated[int, typer.Option(min=0)]
Targets = Annotated[
    list[str] | None,
    typer.Option(help="n=...,d=... or c=... to predict the loss at (repeatable)."),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Plot = Annotated[
    Path | None, typer.Option(help="Draw runs and curves into this file (.png, .svg or .pdf).")
]
