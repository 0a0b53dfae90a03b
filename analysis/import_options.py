"""The options of `cola import`, which `cola compare` has of a table too."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Place = Annotated[
    str,
    typer.Argument(
        help="A CSV (a project's table of runs as W&B exports it, or any), JSON lines, Parquet, a "
        "folder of TensorBoard's event files or of W&B's offline runs, or an MLflow address."
    ),
]
StudyName = Annotated[str, typer.Option("--study", help="The name to keep them under.")]
Maps = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="Columns by field: n=PARAMETERS,d=TOKENS,c=FLOPS,loss=LOSS,family=...,budget=...,"
        "seed=...,name=... (repeatable).",
    ),
]
NamePattern = Annotated[
    str | None,
    typer.Option(
        help="Regular expression whose named groups are fields of a run's name: "
        "(?P<family>[a-z]+)-(?P<budget>[0-9.e]+). 70M and 1.4B are numbers there."
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(help="COLUMN=VALUE, also !=, <, <=, >, >=: which runs count (repeatable)."),
]
DropMissing = Annotated[
    bool, typer.Option("--drop-missing", help="Leave out runs that lack a number, and list them.")
]
Experiment = Annotated[
    str | None, typer.Option(help="MLflow's experiment (default: the only one).")
]
Unit = Annotated[
    Literal["nats", "bits", "perplexity"] | None,
    typer.Option("--loss-unit", help="Unit of the loss a token (default: nats, as an assumption)."),
]
Parameters = Annotated[
    Literal["core", "total"] | None,
    typer.Option(help="Which parameters n counts: without embeddings and head, or all."),
]
Family = Annotated[
    str | None, typer.Option("--family", help="Label of all runs, where no column has one.")
]
