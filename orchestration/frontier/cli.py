"""The command `cola frontier`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cola.evaluation.frontier.settings import AXES, PREFIX, axes_of
from cola.files import storage_errors, write_atomically
from cola.records import STUDY_FRONTIER
from cola.terminal import say, waiting
from cola.terminal_tables import wide_console
from orchestration.benchmark.benchmark import command_line
from orchestration.benchmark.parts import batches_in
from orchestration.cli.evaluate import Features, Gpu, Rows, Settings, Workers
from orchestration.cli.options import AsJson, RayAddress, Seed, StudyOutput, Wide, output_folder
from orchestration.cli.things import name_and_output
from orchestration.state.paths import OutputFolder

if TYPE_CHECKING:
    from orchestration.inference.target import Target

app = typer.Typer(no_args_is_help=True, add_completion=False)

NOBODY = "none"  # in place of a reference

Budget = Annotated[
    float | None,
    typer.Option(help="The budget whose runs are measured, FLOPs. Default: each curve's largest."),
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=V,V",
        help="A key to vary, in place of all of them (repeatable): "
        f"{', '.join(PREFIX + key for key in AXES)}.",
    ),
]
Cross = Annotated[
    bool, typer.Option("--cross", help="Every combination of the varied keys, not one at a time.")
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="A run or folder of a family with an exact likelihood that judges the texts; none: "
        "nobody. Default: the study's run of the least loss."
    ),
]


@app.command()
def frontier(
    study: Annotated[str, typer.Argument(help="A finished study's name, or its YAML file.")],
    output: StudyOutput = None,
    budget: Budget = None,
    *,
    settings: Settings = None,
    vary: Vary = None,
    cross: Cross = False,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts, at most.")] = 256,
    draws: Annotated[int, typer.Option(min=2, help="Texts behind each prompt.")] = 2,
    reference: Reference = None,
    features: Features = None,
    batches: Annotated[
        str, typer.Option(help="Batch sizes at which cost is measured; empty: it is not.")
    ] = "1,4,16",
    seed: Seed = 0,
    rows: Rows = 16,
    workers: Workers = 1,
    cpus_per_worker: Annotated[int, typer.Option(min=1)] = 1,
    gpu: Gpu = False,
    address: RayAddress = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what it costs; measure nothing.")] = (
        False
    ),
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """Measure quality against diversity and cost of generation over sampling settings.

    Each curve's runs continue the same held-out prompts. Answers are kept item by item: the same
    command resumes where it was cut off. `cola report` of the study draws the result.
    """
    axes = axes_of(vary or [])
    sizes = tuple(batches_in(batches)) if batches.strip() else ()
    with waiting("loading the libraries"):
        from orchestration.frontier.measure import judges_of, measured
        from orchestration.frontier.plan import planned, print_plan
        from orchestration.frontier.record import as_record
        from orchestration.frontier.request import FrontierRequest, check_reads_tokens, prompts_of
        from orchestration.frontier.runs import chosen_runs
        from orchestration.frontier.text import print_frontier
        from orchestration.inference.evaluate import EvaluationExecutor

    name, own = name_and_output(study)
    root = output_folder(output or own or "outputs")
    curves = chosen_runs(name, root, budget)
    request = FrontierRequest(
        tuple(settings or ()), axes, cross, prompts, draws, seed, sizes,
        reference_target(reference, name, root), checked_features(features),
    )  # fmt: skip
    if request.reference is not None:
        check_reads_tokens(request.reference, curves)
    texts = prompts_of(curves, request)
    console = wide_console()
    if plan:
        found = planned(curves, texts, request)
        typer.echo(json.dumps(found, indent=1)) if as_json else print_plan(console, found)
        return
    executor = EvaluationExecutor(rows, workers, cpus_per_worker, gpu, address)
    judges = judges_of(curves, texts, request)
    results = list(
        measured(curves, texts, request, executor, judges=judges, show_progress=not as_json)
    )
    record = as_record(name, command_line(), results, texts, request=request, judges=judges)
    path = OutputFolder(root).studies / name / STUDY_FRONTIER
    with storage_errors(path, remedy="make room, or check that this user may write there"):
        write_atomically(path, json.dumps(record, indent=1) + "\n")
    if as_json:
        typer.echo(json.dumps(record, indent=1))
        return
    print_frontier(console, record, wide=wide)
    say(console, f"Kept in {path}, answers beside the runs.")


def reference_target(given: str | None, study: str, root: Path) -> Target | None:
    """The model that judges.

    Raises:
        SpecError: it cannot, or there is no such model.
    """
    from cola.evaluation.models.judge import check_can_judge
    from orchestration.frontier.runs import best_reference
    from orchestration.inference.target import find_target

    if given is None:
        return best_reference(study, root)
    if given == NOBODY:
        return None
    target = find_target(given, root, None)
    check_can_judge(given, target.family)
    return target


def checked_features(folder: Path | None) -> Path | None:
    """The folder of `--features`.

    Raises:
        SpecError: it holds no model.
    """
    from cola.evaluation.models.features import check_features

    if folder is None:
        return None
    check_features(folder.expanduser())
    return folder.expanduser()
