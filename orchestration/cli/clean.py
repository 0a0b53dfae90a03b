"""The command `cola clean`: removes training checkpoints that finished runs need no more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.cli.options import AsJson, output_folder
from orchestration.cli.things import name_and_output

if TYPE_CHECKING:
    from orchestration.cleanup.leftovers import Leftover

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def clean(
    study: Annotated[str, typer.Argument(help="A study's or sweep's name, or its YAML file.")],
    output: Annotated[
        str | None, typer.Option(help="Output folder (default: the file's, or outputs).")
    ] = None,
    as_json: AsJson = False,
    *,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what it would remove; remove nothing.")
    ] = False,
) -> None:
    """Remove training checkpoints of finished runs; models, and what was asked to be kept, stay."""
    from orchestration.cleanup.leftovers import leftovers_of, remove

    name, own = name_and_output(study)
    root = output_folder(output or own or "outputs")
    found = leftovers_of(root, name)
    gone = [each for each in found.found if each.surplus.checkpoints]
    if not plan:
        for each in gone:
            remove(each)
    if as_json:
        about = {"name": name, "removed": not plan, "bytes": found.bytes}
        rows = [as_row(each) for each in found.found]
        typer.echo(
            json.dumps({**about, "unfinished_runs": found.unfinished, "runs": rows}, indent=1)
        )
        return
    for each in found.found:
        typer.echo(line_of(each))
    verb = "would be removed" if plan else "removed"
    typer.echo(
        f"{name}: {found.bytes / 1e9:.3g} GB in checkpoints of {len(gone)} finished runs {verb}; "
        f"{found.unfinished} runs are not finished and left alone"
    )


def as_row(leftover: Leftover) -> dict[str, Any]:
    """One run in one place, for `--json`."""
    surplus = leftover.surplus
    return {
        "run": leftover.run,
        "run_key": leftover.run_key,
        "place": surplus.store.shown,
        "bytes": surplus.bytes,
        "checkpoints": len(surplus.checkpoints),
        "kept_checkpoints": surplus.kept,
        "why_kept": surplus.why_kept,
    }


def line_of(leftover: Leftover) -> str:
    """One run in one place, for people."""
    surplus = leftover.surplus
    kept = f"; {surplus.kept} stay" if surplus.kept else ""
    why = f" ({surplus.why_kept})" if surplus.why_kept is not None else ""
    size = f"{surplus.bytes / 1e9:8.3g} GB  {len(surplus.checkpoints)} checkpoints"
    return f"{size}  {leftover.run}{kept}{why}  {surplus.store.shown}"
