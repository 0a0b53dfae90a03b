"""Commands that evaluate: score, items for it, lm-eval, check-release."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cola.errors import SpecError
from cola.evaluation.few_shot.scoring import (
    TASKS,
    Matching,
    Paired,
    TaskScore,
    compare_paired,
    score_task,
)
from cola.evaluation.few_shot.selection import Selection
from cola.evaluation.few_shot.sources import Hub, load_items
from cola.evaluation.items import Item, read_generations, write_items
from cola.files import storage_errors
from cola.records import TaskSelection
from orchestration.cli.options import AsJson

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def score(
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")],
    items: Annotated[
        Path,
        typer.Option(
            help="JSONL: id, prompt, answer, choices, answers; or a folder with TASK.jsonl."
        ),
    ],
    generations: Annotated[Path, typer.Option(help="JSONL of a model's outputs: id, generation.")],
    *,
    against: Annotated[
        Path | None,
        typer.Option(help="Another model's outputs, compared item by item (McNemar, exact)."),
    ] = None,
    matching: Annotated[
        Matching,
        typer.Option(
            help="strict: what differs in sign, point, exponent or unit is another answer; letters "
            "and options count as whole words. release: the public release's rule, for parity."
        ),
    ] = "strict",
    per_item: Annotated[
        Path | None, typer.Option(help="Write the answer found in every generation here, as JSONL.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score any model's generations on a few-shot task; rates are in per cent."""
    if per_item is not None:
        check_apart(per_item, items, generations, against)
    questions = load_items(task, items)
    own = score_task(task, questions, read_generations(generations), matching=matching)
    other = paired = None
    if against is not None:
        theirs = read_generations(against, option="--against")
        other = score_task(task, questions, theirs, matching=matching, option="--against")
        paired = compare_paired(own, other)
    if per_item is not None:
        write_per_item(per_item, questions, own)
    if as_json:
        summary: dict[str, Any] = own.summary()
        if other is not None and paired is not None:
            summary |= {"against": other.summary(), "paired": asdict(paired)}
        typer.echo(json.dumps(summary, indent=1))
        return
    typer.echo(sentence(own))
    if other is not None and paired is not None:
        typer.echo(sentence(other))
        typer.echo(paired_sentence(paired))


@app.command("items")
def write_public_items(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(TASKS)}.")],
    to: Annotated[Path, typer.Option(help="The JSONL file to write.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many items. Default: all.")
    ] = None,
    *,
    selection: Annotated[
        TaskSelection,
        typer.Option(
            help="Which items --limit takes: stratified, drawn by --seed from every part of the "
            "data set; or the first ones, as the public release took them."
        ),
    ] = "stratified",
    seed: Annotated[int, typer.Option(min=0, help="Of the stratified draw.")] = 0,
    dataset: Annotated[
        str | None,
        typer.Option(help="Another data set in the same schema: a hub name or a local folder."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="The data set's configuration.")] = None,
    split: Annotated[str | None, typer.Option(help="The data set's split.")] = None,
    revision: Annotated[str | None, typer.Option(help="The data set's commit or branch.")] = None,
) -> None:
    """Write a task's public data set as prompted items, for use where there is no network."""
    source = Hub(dataset, config, split, revision)
    chosen = Selection(limit, selection, seed)
    items = load_items(task, source, selection=chosen, option="`cola score --items`")
    write_items(to, items)
    typer.echo(f"{to}: {len(items)} items of {task}")


@app.command(
    name="lm-eval",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def lm_eval(context: typer.Context) -> None:
    """EleutherAI's lm-evaluation-harness, with --model cola --model_args pretrained=DIR.

    Every argument goes to the harness's own command unchanged.
    """
    from cola.evaluation.harness import run  # an optional dependency, and slow to import

    run(context.args)


@app.command("check-release")
def check_release_folder(
    folder: Annotated[Path, typer.Argument(help="cola_dit/, cola_vae/, meta.json, expected.*")],
) -> None:
    """Recompute a folder of the public release's reference tensors; exit 1 if any is off."""
    from cola.release.check import TOLERANCE, check_release

    comparisons = check_release(folder)
    for item in comparisons:
        value = f"{item.error:.0f} tokens differ" if item.is_ids else f"{item.error:.3e}"
        typer.echo(f"{'ok  ' if item.passes else 'FAIL'} {item.name:16} {value}")
    failed = [item for item in comparisons if not item.passes]
    largest = max((item.error for item in comparisons if not item.is_ids), default=0.0)
    mismatches = sum(item.error for item in comparisons if item.is_ids)
    typer.echo(
        f"{len(comparisons)} tensors, largest error {largest:.3e} (tolerance {TOLERANCE:g}), "
        f"{mismatches:.0f} token mismatches"
    )
    if failed:
        raise typer.Exit(1)


def check_apart(per_item: Path, *inputs: Path | None) -> None:
    """Check that what is written is not what is read.

    Raises:
        SpecError: where it is.
    """
    for path in inputs:
        if path is not None and path.exists() and per_item.exists() and per_item.samefile(path):
            raise SpecError(f"--per-item {per_item}: is a file that is read; give another file")


def write_per_item(path: Path, items: list[Item], score: TaskScore) -> None:
    """Write one JSON line an item, in the items' order.

    Raises:
        StorageError: the file cannot be written.
    """
    lines = [
        json.dumps(asdict(scored) | {"answer": item.answer}) + "\n"
        for item, scored in zip(items, score.per_item, strict=True)
    ]
    with storage_errors(f"--per-item {path}", remedy="give another file"):
        path.write_text("".join(lines), encoding="utf-8")


def sentence(score: TaskScore) -> str:
    """The score in words."""
    low, high = score.accuracy_interval
    text = f"{score.task}: accuracy {score.accuracy:.2f}% [{low:.2f}, {high:.2f}] "
    of_groups = f" of {score.groups} texts" if score.groups is not None else ""
    text += f"on {score.items} items{of_groups} (exact 95% interval, matching {score.matching}), "
    text += f"valid answers {score.valid:.2f}%"
    if score.choice_accuracy is not None:
        text = text.replace("valid answers", "read as choices: valid")
    if score.accuracy_given_valid is not None:
        text += f", accuracy given a valid one {score.accuracy_given_valid:.2f}%"
    if score.choice_accuracy is not None:
        text += f", of all {score.choice_accuracy:.2f}%"
    if score.f1 is not None:
        text += f", F1 {score.f1:.2f}%"
    if score.chance is not None:
        text += f", chance {score.chance:.2f}%"
    if score.position_bias is not None:
        text += f", position bias {score.position_bias:.1f} of 100"
    notes = [release_note(score)] if score.matching != "release" or has_options(score) else []
    if score.ties:
        notes.append(f"{score.ties} generations fit several options and choose none")
    if score.missing:
        notes.append(f"{score.missing} items have no generation and count as wrong")
    if score.extra:
        notes.append(f"{score.extra} generations are of no item and are left out")
    return "; ".join([text, *notes])


def has_options(score: TaskScore) -> bool:
    """Whether the task's answers are options."""
    return score.release.letters is not None


def release_note(score: TaskScore) -> str:
    """What the release's rule gives, and how much of it hangs on letters and substrings."""
    found = score.release
    text = f"by the release's rule accuracy {found.accuracy:.2f}%, valid {found.valid:.2f}%"
    if has_options(score):
        text += (
            f", options found by a letter in {found.letters:.2f}% of the items and by a substring "
            f"in {found.substrings:.2f}%"
        )
    return text


def paired_sentence(paired: Paired) -> str:
    """The comparison in words."""
    low, high = paired.difference_interval
    test = "McNemar" if paired.groups is None else f"t of {paired.groups} texts,"
    return (
        f"difference {paired.difference:+.2f} points [{low:+.2f}, {high:+.2f}] (95% paired "
        f"score interval): {paired.only_first} items right only in the first, "
        f"{paired.only_second} only in the second, {test} p = {paired.p_value:.3g}"
    )
