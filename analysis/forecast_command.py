"""What `cola forecast` does with its options, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import Console

from analysis.forecasts.register import damaged_lines
from analysis.study_forecasts.forecast import measured_study
from analysis.study_forecasts.registration import Asked, curves_of, register_forecasts
from analysis.study_forecasts.scores import Score, held_out_scores, registered_scores
from analysis.study_forecasts.text import line_sentence, sentences_of
from analysis.study_source import StudySource
from analysis.table_fit.options import parse_target
from analysis.tables.json_numbers import json_text
from cola.errors import SpecError
from cola.records import STUDY_FORECASTS
from cola.terminal import say

SCHEMA = 1  # of the JSON


def register(source: StudySource, targets: Sequence[str], asked: Asked, *, as_json: bool) -> None:
    """Write the forecasts and print them.

    Raises:
        SpecError: no target, or nothing that can be forecast.
    """
    if not targets:
        raise SpecError("--target: is missing; give a budget in FLOPs, as c=4e12")
    wanted = tuple(dict.fromkeys(target_compute(text) for text in targets))
    asked = Asked(wanted, asked.curves, asked.metric, asked.law)
    data = measured_study(source.frames(), asked.metric)
    found = register_forecasts(source.name, data, source.folder, asked)
    if as_json:
        print_json(
            {
                "study": source.name,
                "file": str(found.path),
                "forecasts": [
                    line | {"new": new} for line, new in zip(found.lines, found.new, strict=True)
                ],
                "not_registered": found.skipped,
            }
        )
        return
    console = Console(markup=False, emoji=False)
    for line, new in zip(found.lines, found.new, strict=True):
        there = "" if new else " (registered already from the same runs)"
        sentence = line_sentence(line, data.label(str(line["curve"])))
        say(console, f"{sentence}{there}")
        show_notes(console, line["notes"])
    show_notes(console, [f"not registered: {each}" for each in found.skipped])
    say(console, f"forecasts: {found.path}")


def score(
    source: StudySource,
    hold_out: str | None,
    asked: Asked,
    *,
    as_json: bool,
) -> None:
    """Score the study's registered forecasts, or its largest budgets held out, and print it.

    Raises:
        SpecError: nothing is registered, or nothing can be held out.
    """
    skipped: list[str] = []
    damaged, frames = 0, source.frames()
    if hold_out is not None:
        data = measured_study(frames, asked.metric)
        rungs = held_out_rungs(hold_out)
        scores, skipped = held_out_scores(data, rungs, asked.curves, asked.law)
    else:
        path = source.folder / STUDY_FORECASTS
        if asked.law is not None or asked.metric is not None:
            raise SpecError(
                "--law and --metric: go with --hold-out; registered forecasts have their own"
            )
        damaged = damaged_lines(path)
        scores = registered_scores(frames, source.folder)
        if asked.curves:
            kept = curves_of(measured_study(frames), asked.curves)
            scores = [each for each in scores if each.curve in kept]
        if not scores:
            raise SpecError(
                f"study {source.name}: {path} holds no forecast"
                f"{' of these curves' if asked.curves else ''}; register one before the run "
                f"(`cola forecast register {source.name} --target c=FLOPS`), or score finished "
                "runs held out (--hold-out top)"
            )
    if as_json:
        rows = [each.as_json() for each in scores]
        print_json(
            {"study": source.name, "scores": rows, "not_scored": skipped, "damaged_lines": damaged}
        )
        return
    show_scores(Console(markup=False, emoji=False), scores, skipped, damaged=damaged)


def show_scores(
    console: Console, scores: Sequence[Score], skipped: Sequence[str], *, damaged: int
) -> None:
    """Sentences, and what was left out."""
    for sentence in sentences_of(scores, damaged):
        say(console, sentence)
    show_notes(console, [f"not scored: {each}" for each in skipped])


def show_notes(console: Console, notes: Sequence[str]) -> None:
    """Lines that begin with note."""
    for note in notes:
        say(console, f"note: {note}", "yellow")


def print_json(values: dict[str, object]) -> None:
    """One JSON object, with the version of its schema."""
    typer.echo(json_text({"schema": SCHEMA} | values))


def target_compute(text: str) -> float:
    """FLOPs of `c=4e12`.

    Raises:
        SpecError: anything else.
    """
    try:
        target = parse_target(text if "=" in text else f"c={text}")
    except SpecError as error:
        raise SpecError(str(error).replace("--predict", "--target", 1)) from None
    if "c" not in target:
        raise SpecError(f"--target {text}: forecasts of a study are at a compute; give c=FLOPS")
    return target["c"]


def held_out_rungs(text: str) -> int:
    """How many of the largest budgets `top` or a number stands for.

    Raises:
        SpecError: it is neither.
    """
    if text == "top":
        return 1
    if text.isascii() and text.isdigit() and 0 < int(text) < 1000:
        return int(text)
    raise SpecError(f"--hold-out {text}: give top, or how many of the largest budgets to hold out")
