"""Evaluations as tables: tasks with an accuracy, likelihoods, texts, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cola.evaluation.few_shot.definitions import DEFINITIONS, without_shots
from cola.evaluation.statistics import Difference
from cola.evaluation.tasks.task import TaskResult
from cola.families.registry import definition_of
from cola.records import SOLVER_TOLERANCE
from cola.terminal import say
from cola.terminal_tables import NONE, wide_console
from orchestration.inference.evaluate import EvaluationReport

FIRST_COLUMNS = 48  # characters of the columns before the models', with frames; a chosen value
OTHERS = {
    **{
        task.name: ("valid", "accuracy_given_valid", "choice_accuracy", "chance")
        for task in DEFINITIONS.values()
        if task.rule == "exact_text"
    },
    "cloze": ("word_nats",),
    "likelihood": ("nll_nats_per_token", "bits_per_byte", "function_evaluations"),
    "predictive": (
        "brierlm",
        "unigram_brierlm",
        "brier_1",
        "unigram_brier_1",
        "nll_nats_per_token",
        "first_token_accuracy",
        "first_token_draw_accuracy",
        "mixture_accuracy",
        "draw_accuracy",
    ),
    "continuation": ("first_token_accuracy", "chrf"),
    "infilling": ("chrf",),
    "unconditional": (
        "reference_nats_per_token",
        "mauve",
        "distinct_1",
        "distinct_2",
        "distinct_4",
        "repetition_4",
    ),
    "speed": (
        "tokens_per_second",
        "first_tokens_seconds",
        "function_evaluations_per_token",
        "flops_per_token",
    ),
}


def print_evaluations(reports: Sequence[EvaluationReport]) -> None:
    """Print one column a model: accuracies, other measurements, differences, and remarks."""
    console = wide_console()
    heads = headings(reports, console.width)
    if heads[0] == "1":
        for head, report in zip(heads, reports, strict=True):
            label = definition_of(report.target.family).label
            say(console, f"{head}: {report.target.name}, {label}")
    console.print(accuracy_table(reports, heads))
    others = measurement_table(reports, heads)
    if others.row_count:
        console.print(others)
    if len(reports) > 1:
        console.print(difference_table(reports, heads))
    for report in reports:
        for remark in remarks(report):
            say(console, f"{report.target.name}: {remark}")
        for study, why in report.untracked.items():
            say(console, f"{report.target.name}: not in MLflow ({study}): {why}")
    say(console, f"Answers and results: {', '.join(str(r.target.answers) for r in reports)}")


def headings(reports: Sequence[EvaluationReport], width: int) -> list[str]:
    """The heads of the models' columns: names with families, or numbers where names have no room
    side by side."""
    names = [
        f"{report.target.name}\n{definition_of(report.target.family).label}" for report in reports
    ]
    needed = FIRST_COLUMNS + sum(len(report.target.name) + 3 for report in reports)
    return names if needed <= width else [str(number) for number in range(1, len(names) + 1)]


def accuracy_table(reports: Sequence[EvaluationReport], heads: Sequence[str]) -> Table:
    """Accuracies in per cent with their standard errors: a row a task that has one."""
    table = _table("accuracy, % ± standard error over items", "chance", "items", heads=heads)
    for task in _tasks(reports):
        results = [_result(report, task) for report in reports]
        first = next(result for result in results if result is not None)
        if "accuracy" in first.metrics:
            # Chance is that of choosing an option, which an answer's exact text is not.
            chosen = "choice_accuracy" in first.metrics
            chance = None if chosen else first.metrics.get("chance")
            shown = NONE if chance is None else f"{100 * chance:.1f}"
            table.add_row(task, shown, str(first.items), *map(_accuracy, results))
    return table


def measurement_table(reports: Sequence[EvaluationReport], heads: Sequence[str]) -> Table:
    """Everything else that is measured: a row a measurement of `OTHERS`."""
    table = _table("measurement", heads=heads)
    for task in _tasks(reports):
        names = OTHERS.get(without_shots(task), ())
        if not any("choice_accuracy" in r.metrics for r in _results(reports, task)):
            names = tuple(name for name in names if name not in ("valid", "chance"))
        for name in names:
            cells = [_number(_result(report, task), name) for report in reports]
            if any(cell != NONE for cell in cells):
                table.add_row(f"{task}: {name}", *cells)
    return table


def difference_table(reports: Sequence[EvaluationReport], heads: Sequence[str]) -> Table:
    """Each model less the first one, with 95% intervals: a row a task that is a mean over items."""
    first, *others = reports
    title = f"difference to {first.target.name}, [95%] over the same items"
    table = _table(title, heads=heads[1:])
    for task in _tasks(others):
        differences = [report.against_first.get(task) for report in others]
        if any(differences):
            shares = any(_accuracy(_result(report, task)) != NONE for report in others)
            unit, scale = ("points", 100.0) if shares else ("nats per token", 1.0)
            if task == "predictive":
                unit, scale = "Brier-1, times 100", 100.0
            table.add_row(f"{task}, {unit}", *[_difference(value, scale) for value in differences])
    return table


def remarks(report: EvaluationReport) -> list[str]:
    """What a reader must know beside the numbers, one sentence each."""
    sentences = []
    details = {result.task: result.details for result in report.results}
    counts = ", ".join(
        f"{task} {values['prompts_cut']} ({values['tokens_cut']:,} tokens)"
        for task, values in details.items()
        if values.get("prompts_cut")
    )
    if counts:
        sentences.append(
            f"prompts that leave no room for the answer in the context of {report.target.context} "
            f"tokens lost their beginning: {counts}"
        )
    if report.unread:
        sentences.append(f"models of its family do not read {', '.join(report.unread)}")
    sentences += report.left_out
    if details.get("likelihood", {}).get("measured"):
        sentences.append(measured_sentence(details["likelihood"]))
    sentences += kind_sentences(details.get("likelihood", {}).get("kind"))
    sentences += [f"{tasks}: {how}" for how, tasks in _protocols(details).items()]
    sentences += [f"{task} is not compared: {why}" for task, why in report.not_compared.items()]
    sentences += _selections(details)
    sentences += predictive_sentences(details.get("predictive", {}))
    sentences += mauve_sentences(details.get("unconditional", {}))
    absent = details.get("cloze", {}).get("word_nats_absent")
    if absent is not None:
        sentences.append(f"the cloze has no nats of words: {absent}")
    kind = details.get("cloze", {}).get("word_kind", "exact")
    if kind != "exact":
        estimate = "a bound" if kind == "bound" else "an estimate"
        sentences.append(f"the cloze words' nats are {estimate}")
    if details.get("infilling", {}).get("right_context") is False:
        sentences.append("infilling: the family sees no right context; it continued the left one")
    return sentences


def _protocols(details: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """How answers were made, to the tasks that were answered so."""
    found: dict[str, list[str]] = {}
    for task, values in details.items():
        if "protocol" in values:
            how = f"{values['protocol']['kind']} ({values['protocol']['text']})"
            found.setdefault(how, []).append(task)
    return {how: ", ".join(tasks) for how, tasks in found.items()}


def _selections(details: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How the items of few-shot tasks were selected."""
    chosen = {
        task: values["selection"] for task, values in details.items() if "selection" in values
    }
    first = [task for task, selection in chosen.items() if selection["how"] == "first"]
    drawn = [
        f"{task} ({selection['strata'] or 'no'} strata)"
        for task, selection in chosen.items()
        if selection["how"] != "first"
    ]
    sentences = [f"items are the first ones of {', '.join(first)}"] if first else []
    if drawn:
        seed = next(s["seed"] for s in chosen.values() if s["how"] != "first")
        sentences.append(f"items are drawn by seed {seed}, evenly over strata: {', '.join(drawn)}")
    return sentences


def kind_sentences(kind: str | None) -> list[str]:
    """What the measured NLL is, where it is not exact."""
    if kind == "bound":
        return ["the NLL is an upper bound"]
    if kind == "estimate":
        return [
            "the NLL is an estimate, on either side of the true one: solutions with N and with 2 N "
            f"steps differ by more than {SOLVER_TOLERANCE:g} nats a latent; raise "
            "likelihood.ode_steps"
        ]
    return []


def predictive_sentences(details: Mapping[str, Any]) -> list[str]:
    """What the predictive scores are, and what of them is missing; none where there are none."""
    if not details:
        return []
    sentences = [f"predictive: {details['convention']}"]
    nll = f"predictive: its NLL is {details['nll_is']}"
    if details["kind"] is None:
        nll = f"predictive: it has no NLL, as {details['nll_is']}"
    elif "nll_by_draws" in details:
        counts = list(details["nll_by_draws"].items())[-2:]
        nll += ": " + ", ".join(f"{value:.4g} of {count}" for count, value in counts)
    sentences.append(nll)
    sentences += [f"predictive: no {name}: {why}" for name, why in details["absent"].items()]
    if details["prompts"] < details["prompts_asked"]:
        sentences.append(
            f"predictive: the text gives {details['prompts']} prompts, fewer than the "
            f"{details['prompts_asked']} asked for"
        )
    if details["split_tokens"]:
        sentences.append(
            f"predictive: prompts that split a patch lost {details['split_tokens']} first tokens "
            "in all"
        )
    return sentences


def mauve_sentences(details: Mapping[str, Any]) -> list[str]:
    """What MAUVE rests on, or why there is none; none where nothing judges texts."""
    if "mauve_absent" in details:
        return [f"no MAUVE: {details['mauve_absent']}"]
    if "mauve" not in details:
        return []
    found, halves = details["mauve"], details["held_out"].get("mauve")
    sentence = (
        f"MAUVE {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}] of "
        f"{found['texts']:,} texts on the states of {details['mauve_features']}; 95% by "
        f"{found['interval']}"
    )
    if halves is not None:
        error = details["held_out"]["mauve_standard_error"]
        sentence += (
            f"; of one half of the held-out texts against the other it is {halves:.3f}, with a "
            f"scatter of {error:.3f}"
        )
    return [sentence, *([found["note"]] if found["note"] else [])]


def measured_sentence(details: Mapping[str, Any]) -> str:
    """Of how much text the likelihood is, and how much of the given text that is."""
    measured, text = details["measured"], details["text"]
    amount = "the likelihood is of {sequences:,} sequences, {tokens:,} tokens, {bytes:,} bytes"
    sentence = amount.format(**measured)
    if text is None:
        return sentence
    share = measured["bytes"] / max(1, text["bytes"])
    return f"{sentence}, {share:.1%} of the {text['bytes']:,} bytes of the held-out text"


def _table(first: str, *more: str, heads: Sequence[str]) -> Table:
    table = Table(first)
    for name in (*more, *heads):
        table.add_column(name, justify="right")
    return table


def _tasks(reports: Sequence[EvaluationReport]) -> list[str]:
    return list(dict.fromkeys(result.task for report in reports for result in report.results))


def _results(reports: Sequence[EvaluationReport], task: str) -> list[TaskResult]:
    found = (_result(report, task) for report in reports)
    return [result for result in found if result is not None]


def _result(report: EvaluationReport, task: str) -> TaskResult | None:
    return next((result for result in report.results if result.task == task), None)


def _accuracy(result: TaskResult | None) -> str:
    if result is None or "accuracy" not in result.metrics:
        return NONE
    error = result.metrics.get("accuracy_standard_error")
    shown = f"{100 * result.metrics['accuracy']:.1f}"
    return shown if error is None else f"{shown} ± {100 * error:.1f}"


def _difference(difference: Difference | None, scale: float) -> str:
    if difference is None:
        return NONE
    if difference.low is None or difference.high is None:
        return f"{scale * difference.mean:+.3g} [of one document]"
    bounds = (difference.mean, difference.low, difference.high)
    mean, low, high = (scale * value for value in bounds)
    return f"{mean:+.3g} [{low:+.3g}, {high:+.3g}]"


def _number(result: TaskResult | None, name: str) -> str:
    value = None if result is None else result.metrics.get(name)
    return NONE if value is None else f"{value:.4g}"
