"""Commands of sweeps: run (the default), status, report, list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cola.errors import SpecError
from cola.spec import load_yaml
from sweeps.search.trial_log import SweepLog
from sweeps.space.catalog import load_sweep, shipped_sweeps, sweep_folder
from sweeps.space.points import PointPlanner
from sweeps.space.space import describe_point


class DefaultsToRun(TyperGroup):
    """`cola sweep SPEC` is `cola sweep run SPEC`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put `run` before what is no command."""
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=DefaultsToRun,
    no_args_is_help=True,
    add_completion=False,
    help="Many runs with a question: `cola sweep SPEC [--scale S] [--plan]`.",
)

Sweep = Annotated[str, typer.Argument(help="A shipped sweep's name or a YAML file.")]
ScaleOption = Annotated[
    str | None, typer.Option("--scale", help="laptop, node or cluster (default: the first).")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a key of the base study (repeatable).", metavar="KEY=VALUE"
    ),
]

SweepOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep-set",
        help="Override a key of the sweep itself: name, scheduler.kind, budget.trials, ... "
        "(repeatable).",
        metavar="KEY=VALUE",
    ),
]


@app.command("list")
def list_sweeps() -> None:
    """List the sweeps that ship with the product."""
    for name, path in shipped_sweeps().items():
        typer.echo(f"{name:26} {load_yaml(path).get('question', '')}")


@app.command()
def run(
    context: typer.Context,
    sweep: Sweep,
    scale: ScaleOption = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it would do and take; start nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only go on: refuse a sweep that was never started.")
    ] = False,
    settings: Overrides = None,
    sweep_settings: SweepOverrides = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to use (default: a private local one).")
    ] = None,
) -> None:
    """Carry out a sweep; the same command goes on with one that was stopped or killed."""
    spec = load_sweep(sweep, scale, sweep_settings)
    points = PointPlanner(spec, settings or [])
    if resume and not SweepLog(sweep_folder(points.base)).asked:
        raise SpecError(
            f"sweep {spec.name}: --resume, but {sweep_folder(points.base)} holds no trials; leave "
            "it out to start the sweep, or see that output and name are those of the first call"
        )
    if plan:
        from sweeps.driver.plan import describe_plan, plan_sweep

        for sentence in describe_plan(plan_sweep(points)):
            typer.echo(sentence)
        return
    from sweeps.driver.runner import run_sweep

    result = run_sweep(spec, points, address, typer.echo)
    told = ", ".join(f"{count} {state}" for state, count in result.states.items() if count)
    typer.echo(f"{spec.name}: {told or 'no trials'} ({result.folder})")
    if result.unmirrored:
        typer.echo("MLflow did not take everything; the same command sends the rest")
    if not result.complete:
        typer.echo("not complete: the same command goes on from here")
        raise typer.Exit(130 if result.stopped else 1)
    if context.obj is not None:
        context.obj.sweep_report(result.folder)


@app.command()
def status(
    sweep: Sweep,
    scale: ScaleOption = None,
    settings: Overrides = None,
    sweep_settings: SweepOverrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a sweep's trials, from its log."""
    spec = load_sweep(sweep, scale, sweep_settings)
    folder = sweep_folder(PointPlanner(spec, settings or []).base)
    log = SweepLog(folder)
    rows = [trial_row(log, number, spec.metrics[0].name) for number in sorted(log.asked)]
    if as_json:
        excluded = {arm: dict(log.exclusions(arm)) for arm in spec.spaces()}
        typer.echo(json.dumps({"sweep": spec.name, "trials": rows, "excluded": excluded}, indent=1))
        return
    for row in rows:
        typer.echo("  ".join(str(value) for value in row.values() if value is not None))
    for arm in spec.spaces():
        for reason, count in log.exclusions(arm).most_common():
            typer.echo(f"excluded: {count} {arm} ({reason})")
    typer.echo(
        f"{spec.name}: {len(log.ended)} trials ended, {len(log.asked) - len(log.ended)} open"
    )


def trial_row(log: SweepLog, number: int, metric: str) -> dict[str, Any]:
    """One trial's line of the status."""
    asked, ended = log.asked[number], log.ended.get(number)
    return {
        "trial": number,
        "arm": asked.arm or None,
        "point": describe_point(asked.point),
        "state": ended.state if ended is not None else "open",
        metric: ended.metrics.get(metric) if ended is not None else None,
        "wall_seconds": round(ended.wall_seconds, 1) if ended is not None else None,
        "reason": ended.reason if ended is not None else None,
    }


@app.command()
def report(
    context: typer.Context,
    sweep: Sweep,
    scale: ScaleOption = None,
    settings: Overrides = None,
    sweep_settings: SweepOverrides = None,
) -> None:
    """Write the sweep's page: `report/report.html` in its folder."""
    spec = load_sweep(sweep, scale, sweep_settings)
    folder: Path = sweep_folder(PointPlanner(spec, settings or []).base)
    context.obj.sweep_report(folder)
