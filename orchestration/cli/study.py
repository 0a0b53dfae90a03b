"""Commands that plan and run studies and use their models: plan, run, generate, export."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cola.errors import INTERRUPTED, SpecError, StorageError, TrackingError
from cola.evaluation.tasks.settings_read import unread_by_family
from cola.files import storage_errors
from cola.spec import GenerationSpec, apply_overrides, load_yaml
from cola.study import StudySpec
from cola.terminal import say, waiting
from cola.terminal_tables import wide_console
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
    StudyOutput,
    Wide,
    output_folder,
    print_names,
    with_output,
)
from orchestration.cli.plan_tables import (
    execution_sentences,
    family_table,
    memory_table,
    plan_table,
)
from orchestration.cli.results import (
    deliver,
    result_as_json,
    show_next,
    show_result,
    written_report,
)
from orchestration.cli.things import study_of
from orchestration.cluster.interpreter import check_interpreter
from orchestration.cluster.session import check_joined
from orchestration.driver.progress import StudyView
from orchestration.output_mirror.mirror import mirror_of
from orchestration.output_mirror.planned import foreseen, foreseen_plan
from orchestration.planning.catalog import find_run, load_run_spec, shipped_studies
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
from orchestration.planning.units import duration, rungs_in
from orchestration.state.ledger import Ledger
from orchestration.state.paths import OutputFolder, output_root, study_folder

if TYPE_CHECKING:
    from orchestration.driver.study_runner import StudyResult

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def studies(as_json: AsJson = False) -> None:
    """List the studies that ship with the product."""
    about = {
        name: load_yaml(path).get("description", "") for name, path in shipped_studies().items()
    }
    print_names(about, "studies", as_json)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A folder of texts, or one file.")],
    minutes: Annotated[
        float, typer.Option(help="Wall time that all runs together may take.")
    ] = 15.0,
    to: Annotated[
        Path | None, typer.Option(help="The file to write (default: FOLDER's name .yaml, here).")
    ] = None,
    *,
    cores: Annotated[int | None, typer.Option(min=1, help="Default: this machine's.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="Default: this machine's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a first study of a folder of texts, for this machine and the minutes that one has."""
    from orchestration.first_study.draft import (
        Machine,
        commands,
        drafted,
        study_name,
        this_machine,
    )

    check_is_text("FOLDER", str(folder))
    here, name = this_machine(), study_name(folder)
    machine = Machine(cores or here.cores, here.gpus if gpus is None else gpus)
    file = to or Path(f"{name}.yaml")
    if file.exists():
        raise SpecError(f"{file}: exists already; name another file with --to, or remove it")
    with waiting(f"reading {folder}"):
        draft = drafted(folder, minutes, machine, file=str(file), name=name)
    with storage_errors(f"--to {file}", remedy="name a file in a folder that exists"):
        file.write_text(draft.text, encoding="utf-8")
    following = list(commands(str(file), name).values())
    if as_json:
        found = {"study": name, "file": str(file), "runs": len(draft.runs),
                 "seconds": draft.seconds, "corpus": draft.corpus.as_json(), "notes": draft.notes,
                 "next": following}  # fmt: skip
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    console = wide_console()
    for sentence in (*draft.corpus.sentences(), *draft.notes):
        say(console, sentence)
    rates = "rates measured on H100s" if machine.gpus else "assumed rates"
    took = f"about {duration(draft.seconds)} on {machine}, by {rates}"
    say(console, f"made: {file}, {len(draft.runs)} runs, {took}")
    say(console, f"next: {'; '.join(following)}")


@app.command()
def plan(
    context: typer.Context,
    study: Study,
    settings: Overrides = None,
    as_json: AsJson = False,
    *,
    output: StudyOutput = None,
    wide: Wide = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine first, a few steps a family.")
    ] = False,
) -> None:
    """Print the runs of a study, with their cost, before anything starts."""
    spec = study_of(context.obj, study, with_output(settings, output))
    mirror, ledger = mirror_of(spec), Ledger(output_root(spec))
    if mirror is None:
        runs = with_retries(plan_study(spec), spec.retry_diverged, ledger)
    else:
        runs = foreseen_plan(plan_study(spec), spec.retry_diverged, mirror)
    if calibrate:
        from orchestration.benchmark.calibrate import calibrate as measure

        measure(spec, runs)
    costed = plan_with_costs(spec, runs)
    decisions = decide(runs, ledger, study_folder(spec), storage=spec.checkpoint.storage)
    if mirror is not None:
        decisions = foreseen(decisions, mirror, spec.checkpoint.storage)
    if as_json:
        typer.echo(json.dumps(plan_as_json(costed, decisions), indent=1))
    else:
        show_plan(costed, decisions, wide=wide)


def plan_with_costs(study: StudySpec, runs: list[PlannedRun]) -> Plan:
    """The runs with their costs at the rates measured in the study's output folder.

    Raises:
        SpecError: the corpus is known, and too small for a run.
    """
    corpus = corpus_size(study, OutputFolder(output_root(study)).cache)
    for run in runs:
        check_epochs(study, run.name, run.tokens, corpus=corpus)
    return Plan.of(study, runs, corpus, rates=measured_rates(output_root(study)))


def show_plan(plan: Plan, decisions: list[RunDecision], *, wide: bool) -> None:
    """Print the plan as tables, with sentences on its total, its matching and its risks."""
    console = wide_console()
    for table in (
        plan_table(plan, decisions, console, wide=wide),
        family_table(plan, console, wide=wide),
        memory_table(plan, console, wide=wide),
    ):
        if table is not None:
            table.print(console)
    sentences = [*plan.corpus.summary.facts(), total_sentence(plan), *matching_sentences(plan)]
    sentences += capacity_sentences(plan)
    sentences += execution_sentences(plan)
    sentences += [f"Warning: {warning}" for warning in warnings(plan)]
    aside = [decision for decision in decisions if decision.action == "set aside"]
    sentences += [
        f"Warning: {decision.run.name} is set aside: {decision.why}" for decision in aside
    ]
    for sentence in sentences:
        say(console, sentence)


@app.command()
def run(
    context: typer.Context,
    study: Study,
    settings: Overrides = None,
    as_json: AsJson = False,
    *,
    output: StudyOutput = None,
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
    spec, began = study_of(context.obj, study, with_output(settings, output)), time.time()
    view = StudyView(Console(stderr=True) if as_json else None)
    if rehearse:
        spec = rehearsal_of(spec)
        view.note(f"rehearsal: {spec.name}, {len(plan_study(spec))} small runs in {spec.output}")
    chosen = None if rungs is None else rungs_in(rungs)
    result = run_here_or_on(spec, address, view, rungs=chosen)
    show_result(result, view)
    # Where others still train, the last of them writes the report.
    remote = address is not None or spec.output_mirror is not None
    done, arrived = not (result.stopped or result.to_come), not result.unsent
    # The object's stdout is its own: what a report says goes with the other lines.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        if remote and done and context.obj is not None:
            write_report = partial(context.obj.report, spec.name, spec.output)
            arrived &= deliver(spec, Thing("study", spec.name), write_report, notify=view.note)
        if rehearse and result.complete and context.obj is not None:
            context.obj.report(spec.name, spec.output)
            view.note("rehearsed: training, checkpoints, evaluation and report work for this study")
    report = written_report(spec, began)
    if as_json:
        typer.echo(json.dumps(result_as_json(spec, result, report=report), indent=1))
    elif not rehearse:
        show_next(spec, result, view, report=report)
    if not result.complete and not result.left_to_others:
        raise typer.Exit(INTERRUPTED if result.stopped else 1)
    if not arrived:
        raise typer.Exit(StorageError.exit_code)
    if result.unmirrored:
        raise typer.Exit(TrackingError.exit_code)


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
    as_json: AsJson = False,
) -> None:
    """Continue a text, or fill a gap in one, with a finished run's model."""
    folder = find_run(run, output_folder(output))
    spec = load_run_spec(folder)
    changes = list(settings or [])
    if max_new_tokens is not None:
        changes.append(f"max_new_tokens={max_new_tokens}")
    values = apply_overrides(spec.evaluation.generation.model_dump(mode="json"), changes)
    generation = GenerationSpec.parse(values, origin="--set or --max-new-tokens")
    for option, text in (("--prompt", prompt), ("--right", right)):
        check_is_text(option, text)
    note = partial(typer.echo, err=True)
    given = [change.partition("=")[0].strip() for change in changes]
    for key in unread_by_family([f"generation.{k}" for k in given], spec.family, spec.model):
        note(f"{key} has no effect: this {spec.family} model does not read it")
    pieces = generated(folder, run, (prompt, right), generation, seed=seed, notify=note)
    if as_json:
        found = {"run": run, "run_key": folder.name, "prompt": prompt, "right": right,
                 "text": "".join(pieces), "seed": seed,
                 "generation": generation.model_dump(mode="json")}  # fmt: skip
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for piece in pieces:
        typer.echo(piece, nl=False)
    typer.echo()


def generated(
    folder: Path,
    run: str,
    texts: tuple[str, str | None],
    settings: GenerationSpec,
    *,
    seed: int,
    notify: Callable[[str], None],
) -> Iterator[str]:
    """Pieces of what a run's model writes behind a text, or all of it between two, as they come;
    a terminal shows meanwhile what is waited for.

    Raises:
        SpecError: the run has no model, or texts or settings are not for it.
    """
    prompt, right = texts
    notes: list[str] = []
    with waiting("loading the libraries") as following:
        from orchestration.inference.generate import fill_text, stream_text
        from orchestration.inference.target import check_model, open_run_model

        check_model(folder, run, contents=False)
        following(f"loading {run}")
        spec = load_run_spec(folder)
        model = open_run_model(folder, spec.family, spec.data.sequence_length)
        following(f"generating {settings.max_new_tokens} tokens")
        if right is None:
            pieces = stream_text(model, prompt, settings, seed=seed, notify=notes.append)
        else:
            filled = fill_text(model, prompt, right, settings=settings, seed=seed,
                               notify=notes.append)  # fmt: skip
            pieces = iter([filled])
        first = next(pieces, "")
    for note in notes:
        notify(note)
    yield first
    yield from pieces


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
    *,
    as_json: AsJson = False,
) -> None:
    """Write a finished run's model with its tokenizer as a plain Hugging Face folder."""
    with waiting("loading the libraries"):
        from orchestration.inference.export import export_run

    folder = find_run(run, output_folder(output))
    target = to.expanduser().resolve()
    export_run(folder, load_run_spec(folder), target)
    found = {"run": run, "run_key": folder.name, "folder": str(target)}
    typer.echo(json.dumps(found, indent=1) if as_json else str(target))
