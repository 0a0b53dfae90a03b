"""Commands that plan and run studies and use their models: plan, run, generate, export."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cola.errors import INTERRUPTED, SpecError, StorageError, TrackingError, first_of
from cola.evaluation.tasks.settings_read import unread_by_family
from cola.spec import GenerationSpec, apply_overrides, load_yaml
from cola.study import StudySpec
from orchestration.cleanup.contents import Thing
from orchestration.cli.options import (
    AsJson,
    Output,
    Overrides,
    RayAddress,
    Run,
    Rungs,
    Seed,
    Study,
    output_folder,
)
from orchestration.cli.plan_tables import (
    execution_sentences,
    family_table,
    memory_table,
    plan_table,
)
from orchestration.cli.results import deliver
from orchestration.cli.tables import wide_console
from orchestration.cluster.interpreter import check_interpreter
from orchestration.cluster.session import check_joined
from orchestration.driver.progress import StudyView
from orchestration.output_mirror.mirror import mirror_of
from orchestration.output_mirror.planned import foreseen, foreseen_plan
from orchestration.planning.catalog import find_run, load_run_spec, load_study, shipped_studies
from orchestration.planning.corpus_size import check_epochs, corpus_size
from orchestration.planning.decisions import RunDecision, decide
from orchestration.planning.divergence_retry import with_retries
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.plan_summary import (
    Plan,
    capacity_sentences,
    matching_sentences,
    plan_as_json,
    total_sentence,
    warnings,
)
from orchestration.planning.rates import measured_rates
from orchestration.planning.rehearsal import rehearsal_of
from orchestration.planning.units import rungs_in
from orchestration.state.ledger import Ledger
from orchestration.state.paths import OutputFolder, output_root, study_folder

if TYPE_CHECKING:
    from orchestration.driver.study_runner import StudyResult

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def studies() -> None:
    """List the studies that ship with the product."""
    for name, path in shipped_studies().items():
        typer.echo(f"{name:20} {load_yaml(path).get('description', '')}")


@app.command()
def plan(
    study: Study,
    settings: Overrides = None,
    as_json: AsJson = False,
    *,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine first, a few steps a family.")
    ] = False,
) -> None:
    """Print the runs of a study, with their cost, before anything starts."""
    spec = load_study(study, settings or [])
    mirror, ledger = mirror_of(spec), Ledger(output_root(spec))
    if mirror is None:
        runs = with_retries(plan_study(spec), spec.retry_diverged, ledger)
    else:
        runs = foreseen_plan(plan_study(spec), spec.retry_diverged, mirror)
    if calibrate:
        from orchestration.training.calibrate import calibrate as measure

        measure(spec, runs)
    costed = plan_with_costs(spec, runs)
    decisions = decide(runs, ledger, study_folder(spec), storage=spec.checkpoint.storage)
    if mirror is not None:
        decisions = foreseen(decisions, mirror, spec.checkpoint.storage)
    if as_json:
        typer.echo(json.dumps(plan_as_json(costed, decisions), indent=1))
    else:
        show_plan(costed, decisions)


def plan_with_costs(study: StudySpec, runs: list[PlannedRun]) -> Plan:
    """The runs with their costs at the rates measured in the study's output folder.

    Raises:
        SpecError: the corpus is known, and too small for a run.
    """
    corpus = corpus_size(study, OutputFolder(output_root(study)).cache)
    for run in runs:
        check_epochs(study, run.name, run.tokens, corpus=corpus)
    return Plan.of(study, runs, corpus, rates=measured_rates(output_root(study)))


def show_plan(plan: Plan, decisions: list[RunDecision]) -> None:
    """Print the plan as tables, with sentences on its total, its matching and its risks."""
    console = wide_console()
    console.print(plan_table(plan, decisions))
    families = family_table(plan)
    if families is not None:
        console.print(families)
    memory = memory_table(plan)
    if memory is not None:
        console.print(memory)
    sentences = [*plan.corpus.summary.facts(), total_sentence(plan), *matching_sentences(plan)]
    sentences += capacity_sentences(plan)
    sentences += execution_sentences(plan)
    sentences += [f"Warning: {warning}" for warning in warnings(plan)]
    aside = [decision for decision in decisions if decision.action == "set aside"]
    sentences += [
        f"Warning: {decision.run.name} is set aside: {decision.why}" for decision in aside
    ]
    for sentence in sentences:
        console.print(sentence, highlight=False, soft_wrap=True)


@app.command()
def run(
    context: typer.Context,
    study: Study,
    settings: Overrides = None,
    *,
    address: RayAddress = None,
    rungs: Rungs = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="Every step of the study on this machine, scaled down to minutes."
        ),
    ] = False,
) -> None:
    """Train what the study lacks: finished runs are reused, interrupted ones resume."""
    check_joined(address)
    spec = load_study(study, settings or [])
    view = StudyView()
    if rehearse:
        spec = rehearsal_of(spec)
        view.note(f"rehearsal: {spec.name}, {len(plan_study(spec))} small runs in {spec.output}")
    chosen = None if rungs is None else rungs_in(rungs)
    result = run_here_or_on(spec, address, view, rungs=chosen)
    show_result(result, view)
    # Where others still train, the last of them writes the report.
    remote = address is not None or spec.output_mirror is not None
    done, arrived = not (result.stopped or result.to_come), not result.unsent
    if remote and done and context.obj is not None:
        write_report = partial(context.obj.report, spec.name, spec.output)
        arrived &= deliver(spec, Thing("study", spec.name), write_report, notify=view.note)
    if not result.complete and not result.left_to_others:
        raise typer.Exit(INTERRUPTED if result.stopped else 1)
    if not arrived:
        raise typer.Exit(StorageError.exit_code)
    if result.unmirrored:
        raise typer.Exit(TrackingError.exit_code)
    if rehearse and result.complete and context.obj is not None:
        context.obj.report(spec.name, spec.output)
        view.note("rehearsed: training, checkpoints, evaluation and report work for this study")


def run_here_or_on(
    study: StudySpec, address: str | None, view: StudyView, *, rungs: Collection[int] | None = None
) -> StudyResult:
    """Run the study on this machine, or supervised on the cluster at `address`.

    Raises:
        SpecError: Ray cannot be imported in this environment.
        ColaError: see `run_study` and `run_supervised`.
    """
    check_interpreter()  # before a corpus is prepared for minutes
    if address is None:
        from orchestration.driver.study_runner import run_study

        return run_study(study, None, view, rungs=rungs)
    from orchestration.driver.supervisor import run_supervised

    return run_supervised(study, address, view, rungs=rungs)


def show_result(result: StudyResult, view: StudyView) -> None:
    """Print what is left to do, for runs and for MLflow."""
    if result.trained == 0 and result.complete:
        view.note(f"nothing to train: all {len(result.states)} runs are finished already")
    if result.unmirrored:
        view.note(
            f"MLflow did not take everything of {', '.join(result.unmirrored)} "
            f"({result.trouble or 'it was too slow'}); their journals are whole on disk and the "
            "next `cola run` sends the rest"
        )
    if result.unsent:
        view.note(
            f"the output's mirror does not have all of {first_of(result.unsent)}; the output "
            "folder keeps them, and the next `cola run` there copies the rest"
        )
    others = ", ".join(result.others)
    if result.left_to_others:
        held = [name for name in result.left if name in result.others]
        if held:
            left = ", ".join(held)
            view.note(f"left to other drivers: {left}; the last of them completes the study")
        free = [f"{name} ({result.states[name]})" for name in result.left if name not in held]
        if free:
            view.note(f"of other rungs, not finished: {', '.join(free)}; no driver has them here")
    elif not result.complete:
        unfinished = {name: state for name, state in result.states.items() if state != "finished"}
        by_others = f"; another driver runs {others}" if others else ""
        view.note(f"not finished: {unfinished}{by_others}; the same command resumes from here")


@app.command()
def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    right: Annotated[
        str | None,
        typer.Option(help="Text behind a gap of --max-new-tokens tokens, which is filled."),
    ] = None,
    *,
    output: Output = "outputs",
    max_new_tokens: Annotated[int | None, typer.Option(help="Default: the study's.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of evaluation.generation: steps, guidance_scale, solver, time_grid, "
            "first_block, temperature, top_k, top_p, repetition_penalty, ... (repeatable).",
            metavar="KEY=VALUE",
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Continue a text, or fill a gap in one, with a finished run's model."""
    from orchestration.inference.generate import fill_text, stream_text
    from orchestration.inference.target import check_model, open_run_model

    folder = find_run(run, output_folder(output))
    check_model(folder, run, contents=False)
    spec = load_run_spec(folder)
    changes = list(settings or [])
    if max_new_tokens is not None:
        changes.append(f"max_new_tokens={max_new_tokens}")
    values = apply_overrides(spec.evaluation.generation.model_dump(mode="json"), changes)
    generation = GenerationSpec.parse(values, origin="--set or --max-new-tokens")
    for option, text in (("--prompt", prompt), ("--right", right)):
        check_is_text(option, text)
    model = open_run_model(folder, spec.family, spec.data.sequence_length)
    note = partial(typer.echo, err=True)
    given = [change.partition("=")[0].strip() for change in changes]
    for key in unread_by_family((f"generation.{key}" for key in given), spec.family):
        note(f"{key} has no effect: {spec.family} models do not read it")
    if right is not None:
        found = fill_text(model, prompt, right, settings=generation, seed=seed, notify=note)
        typer.echo(found)
        return
    for piece in stream_text(model, prompt, generation, seed=seed, notify=note):
        typer.echo(piece, nl=False)
    typer.echo()


def check_is_text(option: str, text: str | None) -> None:
    """Refuse text of the command line that the terminal sent in another encoding than UTF-8.

    Raises:
        SpecError: naming the option and the first such byte.
    """
    strange = next(
        (character for character in text or "" if "\ud800" <= character <= "\udfff"), None
    )
    if strange is not None:
        raise SpecError(
            f"{option}: is not UTF-8 text (byte 0x{ord(strange) & 0xFF:02X}); set the terminal or "
            "the script that calls to UTF-8"
        )


@app.command()
def export(
    run: Run,
    to: Annotated[Path, typer.Option(help="A new or an empty folder.")],
    output: Output = "outputs",
) -> None:
    """Write a finished run's model with its tokenizer as a plain Hugging Face folder."""
    from orchestration.inference.export import export_run

    folder = find_run(run, output_folder(output))
    target = to.expanduser().resolve()
    export_run(folder, load_run_spec(folder), target)
    typer.echo(str(target))


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
