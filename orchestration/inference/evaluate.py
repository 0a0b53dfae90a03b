"""Evaluates one model: makes its tasks, has them answered, writes and tracks the results."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cola.evaluation.mauve import COMPARABLE
from cola.evaluation.models.features import FeatureModel, check_features
from cola.evaluation.models.judge import Reference, check_can_judge
from cola.evaluation.statistics import Difference, paired_difference
from cola.evaluation.tasks.catalog import HeldOut, held_out, make_tasks
from cola.evaluation.tasks.evaluate import Answers, answer_locally, evaluate_tasks
from cola.evaluation.tasks.task import TaskResult
from cola.evaluation.tasks.unconditional import Judges, new_tokens
from cola.records import FEW_SHOT_NEW_TOKENS, IN_DOMAIN_TASKS, VALIDATION_SEED
from cola.study import EvaluationSpec, RunSpec
from orchestration.inference.held_out import held_out_text, named_text, run_text
from orchestration.inference.target import Target
from orchestration.training.final_tasks import about_model, collect_results, metrics_of
from orchestration.training.task_items import item_loader

log = logging.getLogger(__name__)

OTHER_SETTINGS = "MLflow has metrics at the study's settings alone; these results are a file there"
NOT_COMPARED = (
    "its answers are a {}, the first model's a {}; with --set generation.temperature=1 every "
    "family draws"
)
PLAIN_SEQUENCE = 128  # chosen: tokens of held-out sequences where a model names no length


@dataclass(frozen=True)
class EvaluationRequest:
    """Settings of an evaluation.

    `reference` opens the model that judges unconditional texts, `features` one that MAUVE
    represents them by; `held_out_files` are text in place of a run's test split, of which the
    likelihood is measured whole unless `limited`: the number of items was asked for. Unless it was,
    as many texts are judged as MAUVE needs to be compared. `few_shot_tokens` is how many new tokens
    few-shot tasks make; `unread` names given settings that the model's family does not read.
    """

    settings: EvaluationSpec
    seed: int
    reference: Callable[[], Reference] | None
    held_out_files: tuple[Path, ...]
    limited: bool = False
    few_shot_tokens: int = FEW_SHOT_NEW_TOKENS
    features: Callable[[], FeatureModel] | None = None
    unread: tuple[str, ...] = ()

    @property
    def judges(self) -> Judges:
        """Who judges unconditional texts, and how many of them."""
        found = Judges(self.reference, self.features)
        if not found.any or self.limited:
            return found
        return replace(found, texts=max(COMPARABLE, self.settings.task_items))

    @property
    def held_out_names(self) -> list[str] | None:
        """The files that in-domain tasks are made from; None: the run's test split."""
        return [str(path) for path in self.held_out_files] or None


@dataclass(frozen=True)
class EvaluationExecutor:
    """Answers tasks in this process (`workers` 1 and no `address`) or by Ray workers."""

    rows: int
    workers: int
    cpus_per_worker: int
    gpu: bool
    address: str | None

    @property
    def remote(self) -> bool:
        """Whether Ray workers answer instead of this process."""
        return self.workers > 1 or self.address is not None

    def session(self) -> contextlib.AbstractContextManager[Any]:
        """A context with the Ray session that remote workers need.

        Raises:
            ClusterError: the cluster cannot be reached or refuses.
        """
        if not self.remote:
            return contextlib.nullcontext()
        from orchestration.cluster.session import ray_cluster

        return ray_cluster(self.address)

    def answers(self, target: Target) -> Answers:
        """The function that answers tasks with the target's model."""
        if not self.remote:
            return answer_locally(target.open(own_device()), self.rows)
        from orchestration.inference.ray_workers import answered_by_workers

        return answered_by_workers(
            target,
            self.workers,
            cpus_per_worker=self.cpus_per_worker,
            gpu=self.gpu,
            rows=self.rows,
        )


@dataclass(frozen=True)
class EvaluationReport:
    """Results of one model.

    `untracked` gives, by study, why MLflow did not get them; `unread` names given settings that the
    model's family does not read; `left_out` has sentences on what is missing of the held-out text;
    `against_first`, by task, the difference to the first model of the same command;
    `not_compared`, by task, why there is none where the items are the same.
    """

    target: Target
    seed: int
    results: list[TaskResult]
    held_out: list[str] | None = None
    untracked: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    against_first: dict[str, Difference] = field(default_factory=dict)
    not_compared: dict[str, str] = field(default_factory=dict)

    def compared(self, first: EvaluationReport) -> EvaluationReport:
        """This report with the differences to the first model's results on the same items.

        Draws are compared with draws and modes with modes: a draw of a model is right less often
        than its most probable answer, whatever the model.
        """
        theirs = {result.task: result for result in first.results}
        differences, without = {}, {}
        for result in self.results:
            other = theirs.get(result.task)
            if other is None or not result.per_item:
                continue
            if result.per_item.keys() != other.per_item.keys():
                continue
            kinds = [kind_of(result), kind_of(other)]
            if kinds[0] == kinds[1]:
                differences[result.task] = paired_difference(
                    result.per_item, other.per_item, result.clusters
                )
            else:
                without[result.task] = NOT_COMPARED.format(*kinds)
        return replace(self, against_first=differences, not_compared=without)

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "name": self.target.name,
            "family": self.target.family,
            "context": self.target.context,
            "seed": self.seed,
            "held_out": self.held_out,
            "answers": str(self.target.answers),
            "results": [result.as_json() for result in self.results],
            "untracked": self.untracked,
            "unread_settings": list(self.unread),
            "left_out": list(self.left_out),
            "against_first": {
                task: asdict(difference) for task, difference in self.against_first.items()
            },
            "not_compared": self.not_compared,
        }


def kind_of(result: TaskResult) -> str | None:
    """Whether a result is of modes or of draws; None where nothing is generated."""
    protocol = result.details.get("protocol")
    return None if protocol is None else str(protocol["kind"])


def reference_of(target: Target) -> Callable[[], Reference]:
    """A function that opens the reference model; it can be sent to other processes.

    Raises:
        SpecError: the model cannot judge.
    """
    check_can_judge(target.name, target.family)
    return functools.partial(open_reference, target)


def open_reference(target: Target) -> Reference:
    """Load the reference model, on a GPU where this process has one."""
    return Reference(target.name, target.open(own_device()))


def features_of(folder: Path) -> Callable[[], FeatureModel]:
    """A function that opens the model of a folder that MAUVE represents texts by.

    Raises:
        SpecError: the folder holds none.
    """
    check_features(folder)
    return functools.partial(FeatureModel.open, folder, own_device())


def own_device() -> str:
    """Where this process has its models."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def evaluate_target(
    target: Target,
    request: EvaluationRequest,
    executor: EvaluationExecutor,
    *,
    root: Path,
    show_progress: bool,
) -> EvaluationReport:
    """Answer the tasks, write the results, and send those of a run to MLflow.

    Raises:
        SpecError: a task cannot be made; nothing has been answered by then.
    """
    settings = request.settings
    held = held_out_of(target, request)
    tasks = make_tasks(
        settings,
        held,
        item_loader(settings, request.seed),
        seed=request.seed,
        context=target.context,
        judges=request.judges,
        few_shot_tokens=request.few_shot_tokens,
    )
    about = about_model(target.family, target.context, request.seed)
    about["held_out"] = request.held_out_names
    log.info("evaluating %s: %s", target.name, ", ".join(settings.tasks))
    answers = executor.answers(target)
    with task_progress(target.name, show_progress) as report:
        results = list(
            evaluate_tasks(
                tasks,
                answers,
                target.answers,
                about=about,
                sizes=target.sizes(),
                progress=report,
            )
        )
    return EvaluationReport(
        target,
        request.seed,
        results,
        held_out=request.held_out_names,
        untracked=track(target, request, results, root=root),
        unread=request.unread,
        left_out=() if held is None else held.left_out,
    )


def track(
    target: Target, request: EvaluationRequest, results: list[TaskResult], *, root: Path
) -> dict[str, str]:
    """Send a run's results to MLflow; by study, why MLflow did not get them."""
    spec = target.run_spec()
    if spec is None or target.run_folder is None:
        return {}
    from orchestration.inference.tracking import send_results

    own = has_study_settings(spec, request, target.context)
    outcome = send_results(
        spec, metrics_of(results) if own else {}, collect_results(target.run_folder), root=root
    )
    untracked = {study: why for study, why in outcome.items() if why}
    return untracked if own else dict.fromkeys(outcome, OTHER_SETTINGS) | untracked


def has_study_settings(spec: RunSpec, request: EvaluationRequest, context: int | None) -> bool:
    """Whether all settings but the choice of tasks are those of the run's study.

    The metrics that a study's report compares are at these settings alone.
    """
    # Items and prompts say how many, not how they are answered.
    tasks = {"tasks", "task_items", "task_folder", "task_selection", "predictive"}
    own, asked = spec.evaluation, request.settings
    if asked.task_selection != own.task_selection:
        return False
    if asked.predictive_prompts and asked.predictive.how() != own.predictive.how():
        return False
    same = request.settings.model_dump(exclude=tasks) == spec.evaluation.model_dump(exclude=tasks)
    same = same and request.few_shot_tokens == FEW_SHOT_NEW_TOKENS
    if request.held_out_files and set(request.settings.tasks) & set(IN_DOMAIN_TASKS):
        return False
    return same and context == spec.data.sequence_length and request.seed == VALIDATION_SEED


def held_out_of(target: Target, request: EvaluationRequest) -> HeldOut | None:
    """The held-out files, or a text that the run's study names, or else the test split of the
    target's data; None without any.

    Data that an earlier release has prepared have no test split: their validation split is used.

    Raises:
        SpecError: a file cannot be used.
        StorageError: the run's prepared corpus is gone or damaged.
    """
    if not set(request.settings.tasks) & set(IN_DOMAIN_TASKS):
        return None
    name = named_text(request.held_out_files, target.settings())
    if name is not None:
        return run_text(target, name, every_sequence=not request.limited)
    if request.held_out_files:
        return held_out_text(
            request.held_out_files,
            target.tokenizer(),
            target.context or PLAIN_SEQUENCE,
            every_sequence=not request.limited,
        )
    data = target.data()
    settings = request.settings
    if data is None:
        return None
    texts = sequences_for(request, data.split(data.final).sequence_length)
    return held_out(data, settings.task_items, settings.predictive_prompts, texts=texts)


def sequences_for(request: EvaluationRequest, length: int) -> int:
    """Held-out sequences of `length` tokens that give as many pieces as texts are judged; 0 where
    each text has a sequence."""
    texts, new = request.judges.texts, new_tokens(request.settings.generation, length)
    return 0 if texts is None else -(-texts // max(1, length // new))


@contextlib.contextmanager
def task_progress(name: str, show: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a progress bar a task on stderr; yields a function of task, answered and total."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        lines: dict[str, Any] = {}

        def report(task: str, done: int, total: int) -> None:
            if task not in lines:
                lines[task] = progress.add_task(f"{name} {task}", total=total)
            progress.update(lines[task], completed=done)

        yield report
