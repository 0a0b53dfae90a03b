"""The command that evaluates finished models: evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cola.errors import SpecError
from cola.families.registry import judges
from cola.records import FEW_SHOT_TASKS, IN_DOMAIN_TASKS
from cola.spec import apply_overrides
from cola.study import EvaluationSpec

if TYPE_CHECKING:
    from orchestration.inference.evaluate import EvaluationReport
    from orchestration.inference.target import Target

app = typer.Typer(no_args_is_help=True, add_completion=False)

GROUPS = {
    "few-shot": FEW_SHOT_TASKS[:8],
    "in-domain": IN_DOMAIN_TASKS,
    "all": FEW_SHOT_TASKS[:8] + IN_DOMAIN_TASKS,
}


@app.command()
def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="Runs (STUDY/RUN-NAME, a run key, a folder), studies (each finished run), or "
            "folders with a model."
        ),
    ],
    tasks: Annotated[
        str | None,
        typer.Option(
            help=f"Names with commas between: {', '.join(IN_DOMAIN_TASKS + FEW_SHOT_TASKS)}; or "
            f"{', '.join(GROUPS)}. Default: the study's, or in-domain.",
        ),
    ] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Items a task: the first ones.")] = None,
    task_folder: Annotated[
        str | None,
        typer.Option(help="Few-shot items, <task>.jsonl each. Default: the public data sets."),
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Text for in-domain tasks of a plain model folder (repeatable)."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="A run or folder that judges unconditional texts; of a family with an exact "
            f"likelihood: {', '.join(judges())}."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens of prompt and continuation. Default: as trained."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A key of the study's evaluation: generation.steps=8, likelihood.ode_steps=4, ...",
            metavar="KEY=VALUE",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    rows: Annotated[int, typer.Option(min=1, help="Items in work at once.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Ray workers; 1: this process.")] = 1,
    cpus_per_worker: Annotated[int, typer.Option(min=1)] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="One GPU a Ray worker.")] = False,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to use (default: a private local one).")
    ] = None,
    output: Annotated[str, typer.Option(help="Output folder of the study.")] = "outputs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate finished models on tasks; the same command goes on where it was cut off.

    Answers and results are kept beside the run (or in OUTPUT/evaluation), and a run's results go
    to MLflow.
    """
    from orchestration.cli.evaluation_tables import print_evaluations
    from orchestration.inference.evaluate import (
        EvaluationExecutor,
        EvaluationRequest,
        evaluate_target,
        reference_of,
    )
    from orchestration.inference.target import find_target
    from orchestration.planning.catalog import finished_runs

    root = Path(output).expanduser().resolve()
    names = [name for target in targets for name in finished_runs(target, root) or [target]]
    found = [find_target(name, root, context) for name in names]
    judge = None if reference is None else reference_of(find_target(reference, root, None))
    changes = list(settings or [])
    changes += [f"task_items={items}"] if items is not None else []
    changes += [f"task_folder={json.dumps(task_folder)}"] if task_folder is not None else []
    hands = EvaluationExecutor(rows, workers, cpus_per_worker, gpu, address)
    reports: list[EvaluationReport] = []
    with hands.session():
        for target in found:
            asked = EvaluationRequest(
                chosen(target, tasks, changes), seed, judge, tuple(held_out or ())
            )
            report = evaluate_target(target, asked, hands, root=root, show_progress=not as_json)
            reports.append(report.compared(reports[0]) if reports else report)
    if as_json:
        typer.echo(json.dumps([report.as_json() for report in reports], indent=1))
    else:
        print_evaluations(reports)


def chosen(target: Target, tasks: str | None, changes: list[str]) -> EvaluationSpec:
    """The target's own settings with what the command line changes.

    Raises:
        SpecError: for an unknown task, key or value.
    """
    values = apply_overrides(target.settings().model_dump(mode="json"), changes)
    if tasks is not None:
        values["tasks"] = task_names(tasks)
    values["tasks"] = values["tasks"] or list(GROUPS["in-domain"])
    return EvaluationSpec.parse(values, origin="--set")


def task_names(given: str) -> list[str]:
    """Names and groups with commas between, each task once.

    Raises:
        SpecError: for a name that is neither.
    """
    known = IN_DOMAIN_TASKS + FEW_SHOT_TASKS
    names: dict[str, None] = {}
    for name in (part.strip() for part in given.split(",")):
        if name not in known and name not in GROUPS:
            raise SpecError(
                f"--tasks {name}: unknown; valid: {', '.join(known)}, or {', '.join(GROUPS)}"
            )
        names |= dict.fromkeys(GROUPS.get(name, (name,)))
    return list(names)
