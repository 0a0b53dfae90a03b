"""Commands that say what the runs say: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from analysis.report import write_report
from cola.spec import SpecError, load_yaml

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def report(
    study: Annotated[str, typer.Argument(help="The study's name (or its YAML file).")],
    output: Annotated[
        str | None, typer.Option(help="Output folder (default: the file's, or outputs).")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow (default: what the study recorded).")
    ] = None,
) -> None:
    """Fit the study's scaling curves and write report.html, report.md, figures and tables."""
    name = study
    if study.endswith((".yaml", ".yml")):
        values = load_yaml(Path(study))
        name, output = str(values.get("name")), output or values.get("output")
    root = Path(output or "outputs").expanduser().resolve()
    folder = root / "studies" / name
    if not (folder / "study.yaml").exists():
        raise SpecError(f"study {name}: {root} holds no such study; run it first, or give --output")
    spec = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    uri = tracking_uri or spec["tracking"]["uri"] or f"sqlite:///{root / 'mlflow.db'}"
    result = write_report(name, uri, folder / "report", spec)
    console = Console()
    for fit in result.fits.values():
        console.print(f"{fit.label:9} ({fit.kind}): {fit.formula}", highlight=False)
    for warning in result.warnings:
        console.print(f"note: {warning}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"report: {result.html}", highlight=False, soft_wrap=True)
