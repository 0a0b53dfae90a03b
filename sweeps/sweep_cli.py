"""Commands of sweeps: run (the default), status, report, list."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cola.errors import INTERRUPTED, RunError, SpecError, StorageError, TrackingError, first_of
from cola.spec import load_yaml
from cola.terminal import say
from cola.terminal_tables import Column, cell, fitted, wide_console
from orchestration.cleanup.contents import Thing
from orchestration.cli.options import (
    AsJson,
    RayAddress,
    StudyOutput,
    Wide,
    print_names,
    with_output,
)
from orchestration.cli.results import deliver
from orchestration.cli.things import within
from orchestration.cluster.interpreter import check_interpreter
from orchestration.cluster.session import check_joined
from orchestration.driver.live_screen import LiveScreen
from orchestration.remote.submission import Submission
from sweeps.search.known_trials import describe_left_out, leave_out_trials
from sweeps.search.trial_log import SweepLog
from sweeps.space.base_study import written_study
from sweeps.space.catalog import load_sweep, own_sweep, shipped_sweeps, sweep_folder
from sweeps.space.metrics import missing_metric
from sweeps.space.points import PointPlanner
from sweeps.space.space import describe_point


class DefaultsToRun(TyperGroup):
    """`cola sweep SPEC` is `cola sweep run SPEC`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of these arguments: `run` where the first names no command."""
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
def list_sweeps(as_json: AsJson = False) -> None:
    """List the sweeps that ship with the product."""
    about = {name: load_yaml(path).get("question", "") for name, path in shipped_sweeps().items()}
    print_names(about, "sweeps", as_json)


@app.command()
def run(
    context: typer.Context,
    sweep: Sweep,
    scale: ScaleOption = None,
    *,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what it will run and cost; start nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Refuse a sweep that was never started.")
    ] = False,
    settings: Overrides = None,
    sweep_settings: SweepOverrides = None,
    output: StudyOutput = None,
    address: RayAddress = None,
) -> None:
    """Run a sweep; the same command resumes one that was stopped or killed."""
    check_joined(address)
    sweep, settings = own_sweep(sweep, with_output(settings, output))
    spec = load_sweep(sweep, scale, sweep_settings)
    planner = PointPlanner(spec, settings)
    if resume:
        check_was_started(planner)
    if plan:
        from sweeps.driver.plan import describe_plan, plan_sweep

        for line in describe_plan(plan_sweep(planner)):
            typer.echo(line)
        return
    check_interpreter()
    from sweeps.driver.runner import run_supervised, run_sweep

    name = planner.sweep.name
    forecast = None if context.obj is None else context.obj.register_forecast
    screen = LiveScreen()
    if address is None:
        result = run_sweep(planner, None, screen, forecast=forecast)
    else:
        result = run_supervised(
            spec, settings, address, base=planner.base, screen=screen, forecast=forecast
        )
    counts = ", ".join(f"{count} {state}" for state, count in result.states.items() if count)
    typer.echo(f"{name}: {counts or 'no trials'} ({result.folder})")
    if result.unmirrored:
        typer.echo("MLflow did not take everything; the same command sends the rest")
    report = None if context.obj is None else partial(context.obj.sweep_report, result.folder)
    remote, arrived = address is not None or planner.base.output_mirror is not None, True
    if result.unsent:
        arrived = False
        typer.echo(
            f"the output's mirror does not have all of {first_of(result.unsent)}; the same command "
            "copies the rest"
        )
    if report is not None and remote and not result.stopped:
        arrived &= deliver(planner.base, Thing("sweep", name), report, notify=typer.echo)
    if not result.complete:
        typer.echo("not complete: the same command resumes it")
        raise typer.Exit(INTERRUPTED if result.stopped else 1)
    check_has_trials(name, SweepLog(result.folder))
    check_has_metrics(planner, SweepLog(result.folder))
    if isinstance(result.tuned, Path):
        typer.echo(f"tuned settings: {result.tuned} (cola run STUDY --set @{result.tuned})")
    elif result.tuned is not None:
        typer.echo(f"{name}: no tuned.yaml is written: {result.tuned}")
    if report is not None and not remote:
        report()
    if not arrived:
        raise typer.Exit(StorageError.exit_code)
    if result.unmirrored:
        raise typer.Exit(TrackingError.exit_code)


def check_has_trials(name: str, log: SweepLog) -> None:
    """Check that a sweep that has ended had a point to train, and a trial that did not fail.

    Raises:
        SpecError: no point of its space is possible.
        RunError: all of its trials failed.
    """
    if not log.requests and log.excluded:
        (reason, count), *_ = Counter(record.reason for record in log.excluded).most_common()
        raise SpecError(
            f"sweep {name}: no study can have any point of the space; {count} of "
            f"{len(log.excluded)} are excluded because: {reason}"
        )
    outcomes = list(log.outcomes.values())
    if outcomes and all(outcome.state == "failed" for outcome in outcomes):
        raise RunError(
            f"sweep {name}: all of its {len(outcomes)} trials failed, the last because: "
            f"{outcomes[-1].reason}"
        )


def check_has_metrics(planner: PointPlanner, log: SweepLog) -> None:
    """Check that what the sweep optimises was measured.

    Raises:
        SpecError: a finished trial has no such metric.
    """
    leave_out_trials(planner, log)
    names = [goal.name for goal in planner.sweep.metrics]
    for number, outcome in log.outcomes.items():
        if outcome.state == "finished" and number not in log.left_out:
            missing = missing_metric(names, outcome.metrics)
            if missing is not None:
                raise SpecError(f"sweep {planner.sweep.name}: {missing}")


@app.command()
def status(
    sweep: Sweep,
    scale: ScaleOption = None,
    settings: Overrides = None,
    *,
    sweep_settings: SweepOverrides = None,
    output: StudyOutput = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Show a sweep's trials, from its log."""
    given = with_output(settings, output)
    planner = planner_of(sweep, scale, sweep_settings=sweep_settings, settings=given)
    show_planned_status(planner, as_json, wide=wide)


def show_status(sweep: str, as_json: bool, wide: bool) -> None:
    """Print the trials of a sweep that needs no options."""
    planner = planner_of(sweep, None, sweep_settings=None, settings=None)
    show_planned_status(planner, as_json, wide=wide)


def show_planned_status(planner: PointPlanner, as_json: bool, *, wide: bool) -> None:
    """Print a sweep's trials, from its log."""
    spec, log = planner.sweep, SweepLog(sweep_folder(planner.base))
    leave_out_trials(planner, log)
    rows = [trial_row(log, number, spec.metrics[0].name) for number in sorted(log.requests)]
    if as_json:
        excluded = {arm: dict(log.exclusions(arm)) for arm in spec.spaces()}
        notes = {arm: spec.search_notes(arm) for arm in spec.spaces()}
        summary = {"sweep": spec.name, "trials": rows, "excluded": excluded, "notes": notes}
        typer.echo(json.dumps(summary, indent=1))
        return
    console = wide_console()
    if rows:
        fitted(f"sweep {spec.name}", trial_columns(rows), console, wide=wide).print(console)
    for arm in spec.spaces():
        for reason, count in log.exclusions(arm).most_common():
            say(console, f"excluded: {count} {arm} ({reason})")
    left_out = describe_left_out(log)
    if left_out is not None:
        say(console, f"note: {left_out}")
    say(console, f"{spec.name}: {len(log.outcomes)} trials ended, {log.open_count} open")


@app.command()
def report(
    context: typer.Context,
    sweep: Sweep,
    scale: ScaleOption = None,
    *,
    settings: Overrides = None,
    sweep_settings: SweepOverrides = None,
    output: StudyOutput = None,
) -> None:
    """Write the sweep's page: `report/report.html` in its folder."""
    given = with_output(settings, output)
    planner = planner_of(sweep, scale, sweep_settings=sweep_settings, settings=given)
    folder: Path = sweep_folder(planner.base)
    context.obj.sweep_report(folder)


def planner_of(
    sweep: str,
    scale: str | None,
    *,
    sweep_settings: list[str] | None,
    settings: list[str] | None,
) -> PointPlanner:
    """The sweep and its base study, as a command's arguments name and change them.

    Raises:
        SpecError: an argument or the sweep is invalid.
    """
    sweep, settings = own_sweep(sweep, settings or [])
    return PointPlanner(load_sweep(sweep, scale, sweep_settings), settings)


def submission(
    sweep: str,
    scale: str | None,
    settings: list[str],
    *,
    sweep_settings: list[str],
    shared: str | None,
) -> Submission:
    """The sweep as it is sent to a cluster whose nodes see the folder `shared`, if there is one.

    Raises:
        SpecError: an argument or the sweep is invalid, or it has relative paths or a secret in it.
    """
    from sweeps.driver.submission import sweep_submission

    spec = load_sweep(sweep, scale, sweep_settings)
    return sweep_submission(spec, within(shared, written_study(spec, settings), settings))


def check_was_started(planner: PointPlanner) -> None:
    """Check that there is a sweep to resume.

    Raises:
        SpecError: its folder holds no trials.
    """
    folder = sweep_folder(planner.base)
    if not SweepLog(folder).requests:
        raise SpecError(
            f"sweep {planner.sweep.name}: --resume, but {folder} holds no trials; leave it out to "
            "start the sweep, or check that output and name are those of the first call"
        )


def trial_columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """The trials' columns; one that no trial has a value of is left out."""
    texts, clauses = ("arm", "state"), ("point", "beyond", "left_out", "reason")
    return [
        Column(
            key.replace("_", " ") if key in clauses else key,
            [cell(row[key]) for row in rows],
            rank={"beyond": 2, "wall_seconds": 3}.get(key, 0),
            left=key in texts,
            wraps=key in clauses,
        )
        for key in rows[0]
        if any(row[key] is not None for row in rows)
    ]


def trial_row(log: SweepLog, number: int, metric: str) -> dict[str, Any]:
    """One trial's line of the status, by column; None where it has no value yet."""
    request, outcome = log.requests[number], log.outcomes.get(number)
    return {
        "trial": number,
        "arm": request.arm or None,
        "point": describe_point(request.point),
        "state": outcome.state if outcome is not None else "open",
        "beyond": "beyond an edge of its space" if request.beyond else None,
        "left_out": log.left_out.get(number),
        metric: outcome.metrics.get(metric) if outcome is not None else None,
        "wall_seconds": round(outcome.wall_seconds, 1) if outcome is not None else None,
        "reason": outcome.reason if outcome is not None else None,
    }
