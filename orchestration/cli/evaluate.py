"""The command that evaluates finished models: evaluate."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cola.errors import SpecError
from cola.evaluation.tasks.settings_read import NEW_TOKENS, check_read, unread_by_family
from cola.families.registry import judges
from cola.records import FEW_SHOT_NEW_TOKENS, FEW_SHOT_TASKS, IN_DOMAIN_TASKS
from cola.spec import apply_overrides
from cola.study import EvaluationSpec
from cola.terminal import waiting
from orchestration.cli.options import AsJson, Output, RayAddress, Seed, output_folder

if TYPE_CHECKING:
    from cola.evaluation.models.features import FeatureModel
    from cola.evaluation.models.judge import Reference
    from orchestration.inference.evaluate import (
        EvaluationExecutor,
        EvaluationReport,
        EvaluationRequest,
    )
    from orchestration.inference.target import Target

log = logging.getLogger(__name__)

UNCHANGED = "\0unchanged"  # stands for a value that no option gives

app = typer.Typer(no_args_is_help=True, add_completion=False)

GROUPS = {
    "few-shot": FEW_SHOT_TASKS[:8],
    "in-domain": IN_DOMAIN_TASKS,
    "all": FEW_SHOT_TASKS[:8] + IN_DOMAIN_TASKS,
}

Targets = Annotated[
    list[str],
    typer.Argument(
        help="Runs (STUDY/RUN-NAME, a run key, a folder), studies (each finished run), or "
        "folders with a model."
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        help=f"Names with commas between: {', '.join(IN_DOMAIN_TASKS + FEW_SHOT_TASKS)}; or "
        f"{', '.join(GROUPS)}. Default: the study's, or in-domain.",
    ),
]
Items = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Items a task, at most. Of few-shot tasks they are drawn by --seed from every part of "
        "the data set, or with --set task_selection=first the first ones.",
    ),
]
TaskFolder = Annotated[
    str | None,
    typer.Option(help="Few-shot items, <task>.jsonl each. Default: the public data sets."),
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH",
        help="Text for in-domain tasks, in place of a run's test split (repeatable), or the name "
        "of a text in its study's evaluation.held_out. The likelihood is measured of all of it, or "
        "of the first --items sequences.",
    ),
]
Judge = Annotated[
    str | None,
    typer.Option(
        help="A run or folder that judges unconditional texts; of a family with an exact "
        f"likelihood: {', '.join(judges())}."
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="A local Hugging Face folder whose model MAUVE represents texts by, such as GPT-2 "
        "large as in the paper. Default: --reference's hidden states."
    ),
]
Context = Annotated[
    int | None, typer.Option(min=2, help="Tokens of prompt and continuation. Default: as trained.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A key of the study's evaluation: generation.steps=8, likelihood.ode_steps=4, ...",
        metavar="KEY=VALUE",
    ),
]
Rows = Annotated[int, typer.Option(min=1, help="Items in work at once.")]
Workers = Annotated[int, typer.Option(min=1, help="Ray workers; 1: this process.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="One GPU a Ray worker.")]


@app.command()
def evaluate(
    targets: Targets,
    tasks: Tasks = None,
    items: Items = None,
    *,
    task_folder: TaskFolder = None,
    held_out: HeldOut = None,
    reference: Judge = None,
    features: Features = None,
    context: Context = None,
    settings: Settings = None,
    seed: Seed = 0,
    rows: Rows = 16,
    workers: Workers = 1,
    cpus_per_worker: Annotated[int, typer.Option(min=1)] = 1,
    gpu: Gpu = False,
    address: RayAddress = None,
    output: Output = "outputs",
    as_json: AsJson = False,
) -> None:
    """Evaluate finished models on tasks; the same command resumes where it was cut off.

    Answers and results are kept beside the run (or in OUTPUT/evaluation), and a run's results go
    to MLflow.
    """
    with waiting("loading the libraries"):
        from orchestration.inference.evaluate import EvaluationExecutor, features_of, reference_of
        from orchestration.inference.target import find_target

    root = output_folder(output)
    models = models_of(targets, root, context)
    judge = None if reference is None else reference_of(find_target(reference, root, None))
    represented = None if features is None else features_of(features.expanduser())
    changes = evaluation_changes(settings or [], items, task_folder)
    texts = held_out_paths(held_out or [])
    options = {
        "--held-out": bool(texts),
        "--reference": reference is not None,
        "--features": features is not None,
        "--task-folder": task_folder is not None,
        "--context": context is not None,
    }
    given = [name for name, is_given in options.items() if is_given]
    requests = [
        (
            model,
            request_of(
                model,
                tasks,
                changes,
                options=given,
                seed=seed,
                judge=judge,
                features=represented,
                texts=texts,
            ),
        )
        for model in models
    ]
    executor = EvaluationExecutor(rows, workers, cpus_per_worker, gpu, address)
    reports = evaluate_all(requests, executor, root, show_progress=not as_json)
    show_reports(reports, as_json)


def held_out_paths(given: Sequence[str]) -> tuple[Path, ...]:
    """The paths of `--held-out`.

    Raises:
        SpecError: one is empty, which stands for the whole working directory elsewhere.
    """
    if not all(path.strip() for path in given):
        raise SpecError("--held-out: an empty path; name a file, or . for the working directory")
    return tuple(map(Path, given))


def check_options_read(given: Sequence[str], tasks: Sequence[str]) -> None:
    """Whether each of the given options has an effect on one of the tasks.

    Raises:
        SpecError: naming an option that none of them reads, and the tasks that do.
    """
    readers = {
        "--held-out": IN_DOMAIN_TASKS,
        "--reference": ("unconditional",),
        "--features": ("unconditional",),
        "--task-folder": FEW_SHOT_TASKS,
        "--context": tuple(
            task for task in IN_DOMAIN_TASKS + FEW_SHOT_TASKS if task != "likelihood"
        ),
    }
    if "--held-out" in given:  # whose sequences are as long as the context
        readers["--context"] += ("likelihood",)
    for option in given:
        if not set(readers[option]) & set(tasks):
            known = (
                "the few-shot tasks" if option == "--task-folder" else ", ".join(readers[option])
            )
            raise SpecError(
                f"{option}: has no effect on {', '.join(tasks)}; {known} read it, so leave it out "
                "or name one of these tasks"
            )


def models_of(targets: Sequence[str], root: Path, context: int | None) -> list[Target]:
    """The models that the command line names; a study means all of its finished runs.

    Raises:
        SpecError: a name is neither a run, a study nor a folder with a model.
    """
    from orchestration.inference.target import find_target
    from orchestration.planning.catalog import finished_runs

    names = [name for target in targets for name in finished_runs(target, root) or [target]]
    return [find_target(name, root, context) for name in names]


def request_of(
    model: Target,
    tasks: str | None,
    changes: list[str],
    *,
    options: list[str],
    seed: int,
    judge: Callable[[], Reference] | None,
    features: Callable[[], FeatureModel] | None,
    texts: tuple[Path, ...],
) -> EvaluationRequest:
    """What is asked of one model; `options` are those of the command that only some tasks read.

    Raises:
        SpecError: an unknown task, key or value, or a key that none of the tasks reads.
    """
    from orchestration.inference.evaluate import EvaluationRequest

    wanted = evaluation_settings(model, tasks, changes)
    given = given_settings(model, changes)
    check_read(given, wanted.tasks)
    check_options_read(options, wanted.tasks)
    tokens = wanted.generation.max_new_tokens if NEW_TOKENS in given else FEW_SHOT_NEW_TOKENS
    return EvaluationRequest(
        wanted,
        seed,
        judge,
        texts,
        limited="task_items" in given,
        few_shot_tokens=tokens,
        features=features,
        unread=tuple(unread_by_family(given, model.family, model.sizes())),
    )


def evaluation_changes(
    settings: Sequence[str], items: int | None, task_folder: str | None
) -> list[str]:
    """All changes of evaluation settings as `key=value`."""
    changes = list(settings)
    changes += [f"task_items={items}"] if items is not None else []
    changes += [f"task_folder={json.dumps(task_folder)}"] if task_folder is not None else []
    return changes


def evaluation_settings(target: Target, tasks: str | None, changes: list[str]) -> EvaluationSpec:
    """The target's own settings with what the command line changes.

    Raises:
        SpecError: an unknown task, key or value.
    """
    values = apply_overrides(target.settings().model_dump(mode="json"), changes)
    if tasks is not None:
        values["tasks"] = task_names(tasks)
    values["tasks"] = values["tasks"] or list(GROUPS["in-domain"])
    return EvaluationSpec.parse(values, origin="--set")


def given_settings(target: Target, changes: list[str]) -> dict[str, object]:
    """The settings that the command line gives, by path, equal to the target's own or not."""
    own = target.settings().model_dump(mode="json")
    marked = apply_overrides(_unchanged(own), changes)
    given: dict[str, object] = {}

    def collect(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                collect(f"{prefix}.{key}" if prefix else str(key), item)
        elif value != UNCHANGED:
            given[prefix] = value

    collect("", marked)
    return given


def _unchanged(values: dict[str, Any]) -> dict[str, Any]:
    """The keys of nested values, each with `UNCHANGED`."""
    return {
        key: _unchanged(value) if isinstance(value, dict) else UNCHANGED
        for key, value in values.items()
    }


def task_names(text: str) -> list[str]:
    """The tasks of names and groups with commas between, each task once.

    Raises:
        SpecError: a name is neither a task nor a group.
    """
    known = IN_DOMAIN_TASKS + FEW_SHOT_TASKS
    names: dict[str, None] = {}
    for name in (part.strip() for part in text.split(",")):
        if name not in known and name not in GROUPS:
            raise SpecError(
                f"--tasks {name}: unknown; valid: {', '.join(known)}, or {', '.join(GROUPS)}"
            )
        names |= dict.fromkeys(GROUPS.get(name, (name,)))
    return list(names)


def evaluate_all(
    requests: Sequence[tuple[Target, EvaluationRequest]],
    executor: EvaluationExecutor,
    root: Path,
    *,
    show_progress: bool,
) -> list[EvaluationReport]:
    """A report for each model, compared item by item with the first model's."""
    from orchestration.inference.evaluate import evaluate_target

    reports: list[EvaluationReport] = []
    with executor.session():
        for target, request in requests:
            log.info("%s: evaluating %s", target.name, ", ".join(request.settings.tasks))
            report = evaluate_target(
                target, request, executor, root=root, show_progress=show_progress
            )
            reports.append(report.compared(reports[0]) if reports else report)
    return reports


def show_reports(reports: Sequence[EvaluationReport], as_json: bool) -> None:
    """Print the reports as one JSON list or as tables."""
    from orchestration.cli.evaluation_tables import print_evaluations

    if as_json:
        typer.echo(json.dumps([report.as_json() for report in reports], indent=1))
    else:
        print_evaluations(reports)
