"""The options of `cola fit`, each with its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.fitting import choices
from analysis.profiles.method import Method
from cola.spec.design import Parameters

Data = Annotated[
    Path,
    typer.Argument(
        help="A CSV with a header and one row a run (or evaluation); for law annealing a row a "
        "logged step, or a study."
    ),
]
ParameterColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--n",
        help="Column of parameters N, a count: with embeddings as published (Hoffmann), or "
        "without (Kaplan), but one convention for all rows, as exponents depend on it. Repeated: "
        "every convention is fitted, side by side.",
    ),
]
TokenColumn = Annotated[
    str | None, typer.Option("--d", help="Column of training tokens D (default: C / 6 N).")
]
LossColumn = Annotated[str, typer.Option(help="Column of the loss, nats a token.")]
FLOPsColumns = Annotated[
    list[str] | None,
    typer.Option(
        help="Column of training compute C, FLOPs (default: 6 N D); repeated: conventions side by "
        "side."
    ),
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
Level = Annotated[
    float,
    typer.Option(min=0.5, max=0.999, help="Share that intervals and bands are to hold, as 0.9."),
]
Resample = Annotated[
    choices.Kind | None, typer.Option(help="What a refit draws (default: by the number of runs).")
]
Seed = Annotated[int, typer.Option(min=0)]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        help="n=...,d=... or c=... to predict the loss at, with u=... unique tokens under law "
        "repeated; kind=wsd,steps=...,lr=... under law annealing (repeatable)."
    ),
]
UniqueColumn = Annotated[
    str | None, typer.Option(help="Column of unique tokens of the data (law repeated).")
]
Pins = Annotated[
    list[str] | None,
    typer.Option("--pin", help="E=1.69: a floor or an exponent that is known (repeatable)."),
]
Bounds = Annotated[
    list[str] | None,
    typer.Option("--bound", help="alpha=0.3:0.4: bounds of a floor or an exponent (repeatable)."),
]
Share = Annotated[
    str | None,
    typer.Option(
        help="E,alpha: what groups have in common, with a test of it, and are compared by."
    ),
]
Serve = Annotated[
    str | None,
    typer.Option(
        help="tokens=1e12[,mfu=0.4,serving_mfu=0.1,peak=1e15,price=2.5]: the size that reaches "
        "the loss of each c= at the least cost of training and of serving so many tokens."
    ),
]
SettingColumn = Annotated[
    str | None,
    typer.Option(
        "--y",
        help="Column of a setting (learning rate, batch, critical batch) to fit over --n, --d, "
        "--flops (law power). With --loss rows are runs, and the best value at each place is "
        "looked for.",
    ),
]
RulesFile = Annotated[
    Path | None,
    typer.Option(help="Write the law of the setting as a rule of a study, for --set @FILE."),
]
RuleName = Annotated[
    choices.Setting | None, typer.Option("--setting", help="Which rule --rules writes.")
]
StepColumn = Annotated[
    str | None,
    typer.Option("--step", help="Column of optimiser steps, from 1 (law annealing)."),
]
RateColumn = Annotated[
    str | None,
    typer.Option("--lr", help="Column of the learning rate at each step (law annealing)."),
]
Speedup = Annotated[
    bool,
    typer.Option(
        "--speedup",
        help="The second of two groups against the first at a few gates of compute: effective "
        "speed-up, with the floor --pin E=... of their evaluation.",
    ),
]
Baseline = Annotated[
    str | None, typer.Option(help="Label of the group that --speedup compares with.")
]
ThroughputColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of tokens a second (without --d: FLOPs a second), for the speed-up in time."
    ),
]
HoldOut = Annotated[
    float | None,
    typer.Option(help="Predict, and do not fit, the rows of at least this much compute."),
]
Start = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FLOAT|auto",
        help="Leave out the rows of less compute than this; auto: where the law predicts the "
        "largest budgets best, told from the rows that are fitted alone.",
    ),
]
DesignFile = Annotated[
    Path | None,
    typer.Option(
        "--design",
        help="Write the best sizes of all --predict c=... as the design of a study, for --set "
        "@FILE.",
    ),
]
Counts = Annotated[
    Parameters | None,
    typer.Option(
        help="What --n counts, for --design (default: by the names core_parameters and "
        "total_parameters)."
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Plot = Annotated[
    Path | None, typer.Option(help="Draw runs and curves into this file (.png, .svg or .pdf).")
]
