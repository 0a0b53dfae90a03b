"""The command `cola schema`: what YAML files may hold, for editors and for readers, and what
commands print with `--json`, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from cola.errors import SpecError
from cola.files import storage_errors
from cola.spec import Spec
from cola.spec.reference import reference
from cola.spec.schema import json_schema
from cola.study import StudySpec
from orchestration.remote.clusters import ClustersFile
from sweeps.space.spec import SweepSpec

app = typer.Typer(no_args_is_help=True, add_completion=False)

RENEW = "cola schema --markdown --to docs/configuration.md"
INTRODUCTION = f"""\
# Configuration

Every key of a study (`cola plan`, `cola run`), of a sweep (`cola sweep`) and of `clusters.yaml`
(`cola submit --cluster`). This page is written by `{RENEW}`,
from the specifications that the commands read.

A key is named by its path: `training.optimizer.learning_rate` is `learning_rate` in the mapping
`optimizer` in the mapping `training` of the YAML file, and `--set` takes the same path:
`--set training.optimizer.learning_rate=1e-3`. N stands for the index of an item in a list, from 0;
NAME for a name in a mapping. A key that is marked *required* must be given where the mapping that
holds it is given. Unknown keys are refused. Numbers may be written as 1e12 or 1_000_000.

Editors with YAML support complete keys, show their meanings and mark mistakes after
`cola schema study --to study.schema.json` (or `sweep`, `clusters`) and this first line of the YAML
file:

```yaml
# yaml-language-server: $schema=study.schema.json
```
"""


class Kind(StrEnum):
    """What a YAML file describes, or which command's JSON is meant."""

    STUDY = "study"
    SWEEP = "sweep"
    CLUSTERS = "clusters"
    FIT = "fit"
    COMPARE = "compare"
    FORECAST = "forecast"


SPECIFICATIONS: dict[Kind, type[Spec]] = {
    Kind.STUDY: StudySpec,
    Kind.SWEEP: SweepSpec,
    Kind.CLUSTERS: ClustersFile,
}
PRINTED = tuple(kind for kind in Kind if kind not in SPECIFICATIONS)  # files of the package


@app.command()
def schema(
    kind: Annotated[
        Kind | None,
        typer.Argument(help="Default: study; with --markdown, all files.", show_default=False),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference of all keys as Markdown tables.")
    ] = False,
    to: Annotated[Path | None, typer.Option(help="A file to write, instead of printing.")] = None,
) -> None:
    """Print the JSON Schema of a kind of file (study, sweep, clusters), for editors, or of what
    `cola fit`, `compare` and `forecast` print with --json; or the reference of all keys."""
    if markdown:
        text = configuration_page(list(SPECIFICATIONS) if kind is None else [kind])
    elif kind in PRINTED:
        text = printed_schema(kind)
    else:
        chosen = json_schema(SPECIFICATIONS[kind or Kind.STUDY])
        text = json.dumps(chosen, indent=1, ensure_ascii=False) + "\n"
    if to is None:
        typer.echo(text, nl=False)
        return
    with storage_errors(f"--to {to}", remedy="name a file in a folder that exists"):
        to.write_text(text, encoding="utf-8")
    typer.echo(str(to))


def printed_schema(kind: Kind) -> str:
    """JSON Schema of what a command prints with `--json`."""
    return (files("analysis") / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8")


def configuration_page(kinds: Sequence[Kind]) -> str:
    """The configuration reference: an introduction, and a section for each kind of file.

    Raises:
        SpecError: for a kind that is no file.
    """
    for kind in kinds:
        if kind in PRINTED:
            raise SpecError(f"--markdown: {kind} is what a command prints; leave --markdown out")
    sections = [
        f"## {kind.value.capitalize()}\n\n{reference(json_schema(SPECIFICATIONS[kind]), level=3)}"
        for kind in kinds
    ]
    return "\n".join([INTRODUCTION, *sections])
