"""Measures a study's frontier: every setting of every run, item by item, then what it says."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cola.evaluation.frontier.judged import (
    MauveJudge,
    ReferenceJudge,
    external_features,
    reference_features,
)
from cola.evaluation.frontier.prompts import Prompts
from cola.evaluation.frontier.scores import PromptScores
from cola.evaluation.frontier.settings import differences
from cola.evaluation.frontier.speed import BatchSpeedTask
from cola.evaluation.frontier.task import FrontierTask
from cola.evaluation.items import Id
from cola.evaluation.mauve import MauveScore
from cola.evaluation.tasks.answer_log import ItemLog
from cola.evaluation.tasks.evaluate import Answers, evaluate_tasks
from cola.evaluation.tasks.task import Record, Task, digest_of
from cola.files import sha256_of
from cola.spec import GenerationSpec
from orchestration.frontier.request import FrontierRequest
from orchestration.frontier.runs import CurveRuns
from orchestration.inference.evaluate import (
    EvaluationExecutor,
    features_of,
    open_reference,
    own_device,
    task_progress,
)
from orchestration.inference.target import Target
from orchestration.training.final_tasks import about_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PointResult:
    """One setting of a curve, `changed` of the base: scores, metrics and MAUVE of each of its runs,
    and FLOPs of a new token."""

    settings: GenerationSpec
    changed: dict[str, Any]
    scores: tuple[PromptScores, ...]
    metrics: tuple[dict[str, float], ...]
    mauve: tuple[MauveScore, ...]
    flops_per_token: float


@dataclass(frozen=True)
class CurveResult:
    """A curve's settings, the base first, and what generation of its first run costs by batch."""

    runs: CurveRuns
    points: tuple[PointResult, ...]
    speed: dict[str, Any]


@dataclass(frozen=True)
class Judges:
    """Who judges the texts; None: nobody does."""

    reference: ReferenceJudge | None
    mauve: MauveJudge | None


def measured(
    curves: Sequence[CurveRuns],
    prompts: Prompts,
    request: FrontierRequest,
    executor: EvaluationExecutor,
    *,
    judges: Judges,
    show_progress: bool,
) -> Iterator[CurveResult]:
    """Each curve's frontier. What runs have answered already is taken from their folders.

    Raises:
        SpecError: a setting is none that its key can have; nothing has been answered by then.
    """
    points = {curve.variant: request.points(curve, prompts) for curve in curves}
    with executor.session():
        for curve in curves:
            yield of_curve(
                curve, points[curve.variant], prompts,
                request=request, executor=executor, judges=judges, show_progress=show_progress,
            )  # fmt: skip


def judges_of(curves: Sequence[CurveRuns], prompts: Prompts, request: FrontierRequest) -> Judges:
    """The reference and the model of MAUVE, neither of which is loaded yet."""
    reference = None
    if request.reference is not None:
        target = request.reference
        opened = functools.partial(open_reference, target)
        reference = ReferenceJudge(opened, model_digest(target), prompts)
    features = None
    if request.features is not None:
        tokenizer = curves[0].targets[0].tokenizer()
        digest = digest_of(*(sha256_of(path) for path in model_files(request.features)))
        features = MauveJudge(
            external_features(features_of(request.features), tokenizer),
            digest,
            str(request.features),
            prompts,
        )
    elif reference is not None and request.reference is not None:
        features = MauveJudge(
            reference_features(reference), reference.digest, request.reference.name, prompts
        )
    return Judges(reference, features if features is not None and features.has_enough else None)


def model_digest(target: Target) -> str:
    """What tells a model from others: a run's key, or what the files of a folder hold."""
    if target.run_folder is not None:
        return digest_of(target.run_folder.resolve().name)
    return digest_of(*(sha256_of(path) for path in model_files(target.model_folder)))


def model_files(folder: Path) -> list[Path]:
    """Configuration and weights of a folder."""
    return sorted([*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.bin")])


def of_curve(
    curve: CurveRuns,
    points: Sequence[GenerationSpec],
    prompts: Prompts,
    *,
    request: FrontierRequest,
    executor: EvaluationExecutor,
    judges: Judges,
    show_progress: bool,
) -> CurveResult:
    """All settings of a curve's runs."""
    found: list[list[tuple[PromptScores, dict[str, float], MauveScore | None]]] = []
    speed: dict[str, Any] = {}
    for target in curve.targets:
        answers = lazy_answers(executor, target)
        with task_progress(target.name, show_progress) as report:
            tasks = [
                FrontierTask(prompts, point, draws=request.draws, seed=request.seed)
                for point in points
            ]
            found.append(
                [
                    of_task(
                        task, target, answers, judges=judges,
                        report=functools.partial(counted, report, place, len(tasks)),
                    )
                    for place, task in enumerate(tasks)
                ]
            )  # fmt: skip
        if request.batches and not speed:
            speed = speed_of(
                target, answers, prompts, points[0], request=request, executor=executor
            )
    flops = [mean_flops(curve, point, prompts) for point in points]
    results = []
    for place, (point, cost) in enumerate(zip(points, flops, strict=True)):
        scores, metrics, mauves = zip(*(mine[place] for mine in found), strict=True)
        known = tuple(score for score in mauves if score is not None)
        results.append(
            PointResult(point, differences(point, points[0]), scores, metrics, known, cost)
        )
    return CurveResult(curve, tuple(results), speed)


def of_task(
    task: FrontierTask,
    target: Target,
    answers: Answers,
    *,
    judges: Judges,
    report: Callable[[int, int], None],
) -> tuple[PromptScores, dict[str, float], MauveScore | None]:
    """One setting of one run: answered, judged, scored."""
    about = about_model(target.family, target.context, task.seed)
    (result,) = evaluate_tasks(
        [task], answers, target.answers, about=about, sizes=target.sizes(),
        progress=lambda _, done, total: report(done, total),
    )  # fmt: skip
    path = target.answers / f"{task.name}-{task.digest}.jsonl"
    with ItemLog(path) as kept:
        records = {item: kept.records[item] for item in task.ids()}
    nats = mauve = None
    if judges.reference is not None:
        nats = judges.reference.of_records(records, judged_path(path, judges.reference.digest))
    if judges.mauve is not None:
        mauve = judges.mauve.of_records(records, judged_path(path, f"mauve-{judges.mauve.digest}"))
    scores = task.scores(records, nats)
    return scores, result.metrics | scores.metrics(), mauve


def judged_path(answers: Path, digest: str) -> Path:
    """Where a judge's numbers of answers are kept: beside them."""
    return answers.with_name(f"{answers.stem}-judged-{digest}.jsonl")


def speed_of(
    target: Target,
    answers: Answers,
    prompts: Prompts,
    base: GenerationSpec,
    *,
    request: FrontierRequest,
    executor: EvaluationExecutor,
) -> dict[str, Any]:
    """Latency, throughput and memory of a run at the base settings, by batch size."""
    on_gpu = executor.gpu or (not executor.remote and own_device() == "cuda")
    task = BatchSpeedTask(prompts, base, request.batches, device="gpu" if on_gpu else "cpu")
    about = about_model(target.family, target.context, request.seed)
    (result,) = evaluate_tasks([task], answers, target.answers, about=about, sizes=target.sizes())
    return {"run": target.name, **result.details}


def mean_flops(curve: CurveRuns, point: GenerationSpec, prompts: Prompts) -> float:
    """Executed FLOPs of a new token of one text at a time, the mean over the prompts."""
    spec = curve.targets[0].run_spec()
    assert spec is not None  # a study's runs have one
    lengths = Counter(prompts.lengths())
    each = {
        length: curve.family.generation_flops_per_token(spec.model, point, length).total
        for length in lengths
    }
    return sum(each[length] * count for length, count in lengths.items()) / prompts.count


def lazy_answers(executor: EvaluationExecutor, target: Target) -> Answers:
    """The executor's answers; the model is loaded when the first is asked for."""
    opened = functools.cache(lambda: executor.answers(target))

    def answers(task: Task, ids: Sequence[Id]) -> Iterator[tuple[Id, Record]]:
        return opened()(task, ids)

    return answers


def counted(
    report: Callable[[str, int, int], None], place: int, tasks: int, done: int, total: int
) -> None:
    """Report the items of one task of several as those of all, which have equally many."""
    report("frontier", place * total + done, tasks * total)


def as_array(curve: CurveResult) -> np.ndarray:
    """The numbers of every seed, setting and prompt: (S, G, P, K)."""
    by_point = [[scores.values_PK for scores in point.scores] for point in curve.points]
    return np.array(by_point).swapaxes(0, 1)
