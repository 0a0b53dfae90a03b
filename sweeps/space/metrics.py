"""Names of metrics that a sweep can optimise, as far as they are known before anything is trained.

Families name parts of their losses themselves; a name of such a part is checked when the first
trial has finished.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from cola.errors import SpecError, one_line
from cola.records import (
    DIFFUSION_BOUND,
    DISTORTION,
    EXCESS,
    FEW_SHOT_TASKS,
    IN_DOMAIN_TASKS,
    RATE,
    Metric,
)
from cola.study import StudySpec
from cola.study.families import check_likelihood

# Of a likelihood, which not every model has.
LIKELIHOODS = (
    Metric.NLL,
    Metric.NLL_STANDARD_ERROR,
    Metric.BITS_PER_BYTE,
    *(
        name(part)
        for part in (EXCESS, RATE, DIFFUSION_BOUND)
        for name in (Metric.val_nats, Metric.val_error)
    ),
)
VALIDATION = (*LIKELIHOODS, Metric.val_nats(DISTORTION), Metric.val_error(DISTORTION))
CONTINUATION = tuple(
    Metric.continuation(name)
    for name in (
        "first_token_accuracy",
        "token_accuracy",
        "token_accuracy_standard_error",
        "chrf",
        "seconds_per_token",
        "function_evaluations_per_token",
    )
)
GROUPS = ("val/", "train/", "diagnostic/", "continuation/", "eval/", "reference/", "throughput/")
ALONE = (Metric.GRADIENT_NORM, Metric.LEARNING_RATE, Metric.ELAPSED_SECONDS)
NEAR = 0.8  # of a name to a known one, by difflib's ratio; a chosen value


def check_metrics(names: Sequence[str]) -> None:
    """Refuse metrics that no run measures, and one that is named twice.

    Raises:
        ValueError: naming what is meant, or what there is.
    """
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"metrics.{index}.name: {name} is there twice; name each metric once")
        if _is_of_test(name):
            raise ValueError(
                f"metrics.{index}.name: {name} is measured on the test split, which selects "
                "nothing; choose a metric of the validation split, val/NAME or continuation/NAME"
            )
        problem = _problem(name)
        if problem:
            raise ValueError(f"metrics.{index}.name: {name} is no metric of a run; {problem}")


def check_tasks(names: Iterable[str], tasks: Sequence[str], where: str) -> None:
    """Refuse metrics of tasks that the study's finished models do not answer.

    Raises:
        SpecError: ending with `where`.
    """
    for name in names:
        found = Metric.task_and_name(name)
        if found is not None and found[0] not in tasks:
            given = ", ".join(tasks) or "none"
            raise SpecError(
                f"metrics: {name} needs the task {found[0]} in evaluation.tasks, which has {given} "
                f"({where})"
            )


def check_ranked(names: Iterable[str], study: StudySpec) -> None:
    """Refuse metrics of a likelihood where an entry has none.

    Raises:
        SpecError: naming the metric and the entry.
    """
    for name in set(names) & set(LIKELIHOODS):
        try:
            check_likelihood(study.families, study.evaluation.likelihood, f"metrics: {name}")
        except ValueError as error:
            raise SpecError(str(error)) from None


def missing_metric(names: Iterable[str], measured: Iterable[str]) -> str | None:
    """Why a finished trial says nothing about one of the metrics; None where it has all of them."""
    known = sorted(measured)
    missing = next((name for name in names if name not in known), None)
    if missing is None:
        return None
    alike = [name for name in known if name.partition("/")[0] == missing.partition("/")[0]]
    return (
        f"metrics: a finished trial has no {missing}; it has {one_line(', '.join(alike or known))}"
    )


def _is_of_test(name: str) -> bool:
    """Whether the metric is of text that selection must not see: a score, or an in-domain task."""
    tasks = tuple(Metric.task(task, "") for task in IN_DOMAIN_TASKS)
    return name.startswith(("test/", *tasks))


def _problem(name: str) -> str:
    known = (*VALIDATION, *CONTINUATION)
    if name in known or name in ALONE:
        return ""
    if name.startswith("continuation/"):
        return f"there are {', '.join(CONTINUATION)}"
    if name.startswith("eval/"):
        found = Metric.task_and_name(name)
        known_task = found is not None and found[0] in FEW_SHOT_TASKS
        return (
            "" if known_task else f"write eval/TASK/NAME, with one of {', '.join(FEW_SHOT_TASKS)}"
        )
    near = [k for k in known if k.startswith(name)] or difflib.get_close_matches(
        name, known, n=1, cutoff=NEAR
    )
    if near:
        return f"did you mean {near[0]}?"
    if not name.startswith(GROUPS):
        return f"names begin with {', '.join(GROUPS)}, as in MLflow: {Metric.NLL}"
    return ""
