"""One model under evaluation: its tasks, who answers them, where the results go."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cola.data import prepare
from cola.evaluation.models.evaluated_model import tokenizer_in
from cola.evaluation.models.judge import Reference, check_can_judge
from cola.evaluation.statistics import Difference, paired_difference
from cola.evaluation.tasks.catalog import HeldOut, held_out, make_tasks
from cola.evaluation.tasks.evaluate import Answers, answered_here, evaluated
from cola.evaluation.tasks.task import TaskResult
from cola.records import IN_DOMAIN_TASKS
from cola.spec import DataSpec
from cola.study import EvaluationSpec, RunSpec
from orchestration.inference.target import Target
from orchestration.state.paths import OutputFolder
from orchestration.training.final_tasks import about_model, collect_results, item_loader, metrics_of
from orchestration.training.validation import VALIDATION_SEED

OTHER_SETTINGS = "its metrics are of the study's own settings; these results are a file there"
PLAIN_SEQUENCE = 128  # tokens of held-out sequences where a model's own length is not known


@dataclass(frozen=True)
class EvaluationRequest:
    """What is asked of a model. `reference` judges unconditional texts, `held_out_files` are text
    for a model that comes without data."""

    settings: EvaluationSpec
    seed: int
    reference: Callable[[], Reference] | None
    held_out_files: tuple[Path, ...]


@dataclass(frozen=True)
class EvaluationExecutor:
    """Who answers: this process (`workers` 1 and no `address`), or Ray workers."""

    rows: int
    workers: int
    cpus_per_worker: int
    gpu: bool
    address: str | None

    @property
    def remote(self) -> bool:
        """Whether Ray workers answer."""
        return self.workers > 1 or self.address is not None

    def session(self) -> contextlib.AbstractContextManager[Any]:
        """The Ray session that the workers need, if they do."""
        if not self.remote:
            return contextlib.nullcontext()
        from orchestration.cluster.session import ray_cluster

        return ray_cluster(self.address)

    def answers(self, target: Target) -> Answers:
        """Answers of the target's model, by whoever is to give them."""
        if not self.remote:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            return answered_here(target.open(device), self.rows)
        from orchestration.inference.ray_workers import answered_by_workers

        return answered_by_workers(target, self.workers, self.cpus_per_worker, self.gpu, self.rows)


@dataclass(frozen=True)
class EvaluationReport:
    """Results of one model; `untracked` says by study why MLflow did not get them.

    `against_first`: by task the difference to the first model of the same command.
    """

    target: Target
    seed: int
    results: list[TaskResult]
    untracked: dict[str, str] = field(default_factory=dict)
    against_first: dict[str, Difference] = field(default_factory=dict)

    def compared(self, first: EvaluationReport) -> EvaluationReport:
        """With the differences to another model's results on the same items."""
        theirs = {result.task: result.per_item for result in first.results}
        found = {
            result.task: paired_difference(result.per_item, theirs[result.task])
            for result in self.results
            if result.per_item and result.per_item.keys() == theirs.get(result.task, {}).keys()
        }
        return replace(self, against_first=found)

    def as_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "name": self.target.name,
            "family": self.target.family,
            "context": self.target.context,
            "seed": self.seed,
            "answers": str(self.target.answers),
            "results": [result.as_json() for result in self.results],
            "untracked": self.untracked,
            "against_first": {task: asdict(found) for task, found in self.against_first.items()},
        }


def reference_of(target: Target) -> Callable[[], Reference]:
    """What opens the reference model when it is needed; it can be sent to other processes.

    Raises:
        SpecError: for a model that cannot judge.
    """
    check_can_judge(target.name, target.family)
    return functools.partial(open_reference, target)


def open_reference(target: Target) -> Reference:
    """Load the reference model."""
    return Reference(target.name, target.open())


def evaluate_target(
    target: Target, asked: EvaluationRequest, hands: EvaluationExecutor, root: Path, shown: bool
) -> EvaluationReport:
    """Carry the tasks out, keep results, and send those of a run to MLflow.

    Raises:
        SpecError: before anything is answered, where a task cannot be made.
    """
    settings = asked.settings
    tasks = make_tasks(
        settings,
        held_out_of(target, asked, root),
        item_loader(settings.task_folder),
        asked.seed,
        target.context,
        asked.reference,
    )
    about = about_model(target.family, target.context, asked.seed)
    with task_progress(target.name, shown) as tell:
        answers = hands.answers(target)
        results = list(evaluated(tasks, answers, target.answers, about, tell))
    spec = target.run_spec()
    if spec is None or target.run_folder is None:
        return EvaluationReport(target, asked.seed, results)
    from orchestration.inference.tracking import send_results

    own = has_study_settings(spec, asked, target.context)
    outcome = send_results(
        spec, metrics_of(results) if own else {}, collect_results(target.run_folder), root
    )
    untracked = {study: why for study, why in outcome.items() if why}
    if not own:
        untracked = dict.fromkeys(outcome, OTHER_SETTINGS) | untracked
    return EvaluationReport(target, asked.seed, results, untracked)


def has_study_settings(spec: RunSpec, asked: EvaluationRequest, context: int | None) -> bool:
    """Whether the settings are those of the run's study, whose metrics its report compares."""
    which = {"tasks", "task_items", "task_folder"}
    same = asked.settings.model_dump(exclude=which) == spec.evaluation.model_dump(exclude=which)
    return same and context == spec.data.sequence_length and asked.seed == VALIDATION_SEED


def held_out_of(target: Target, asked: EvaluationRequest, root: Path) -> HeldOut | None:
    """The validation split of the target's data, or the files that were given; None without."""
    if not set(asked.settings.tasks) & set(IN_DOMAIN_TASKS):
        return None
    data = target.data()
    if data is None and asked.held_out_files:
        tokenizer = tokenizer_in(target.model_folder)
        spec = DataSpec.parse(
            {
                "corpus": {"source": "files", "paths": [str(p) for p in asked.held_out_files]},
                "tokenizer": {
                    "kind": "file",
                    "path": str(target.model_folder / "tokenizer.json"),
                    "eos_token": tokenizer.eos_token,
                },
                "sequence_length": target.context or PLAIN_SEQUENCE,
                "validation_fraction": 0.49,
            },
            origin="--held-out",
        )
        data = prepare(spec, OutputFolder(root).cache)
    return None if data is None else held_out(data, asked.settings.task_items)


@contextlib.contextmanager
def task_progress(name: str, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A line a task that says how far it is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        lines: dict[str, Any] = {}

        def tell(task: str, done: int, total: int) -> None:
            if task not in lines:
                lines[task] = progress.add_task(f"{name} {task}", total=total)
            progress.update(lines[task], completed=done)

        yield tell
