"""Commands that plan and carry out studies: plan, run, status, generate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cola.records import FAMILY_LABELS, Metric
from cola.spec import GenerationSpec, SpecError, StudySpec, apply_overrides, load_yaml
from orchestration.catalog import find_run, load_run_spec, load_study, shipped_studies
from orchestration.decisions import Decision, decide
from orchestration.journal import JournalReader
from orchestration.ledger import Ledger
from orchestration.plan import PlannedRun, output_root, plan_study, study_folder
from orchestration.progress import StudyView

app = typer.Typer(no_args_is_help=True, add_completion=False)

Study = Annotated[str, typer.Argument(help="A shipped study's name or a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a key: path.to.key=value (repeatable).", metavar="KEY=VALUE"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def studies() -> None:
    """List the studies that ship with the product."""
    for name, path in shipped_studies().items():
        typer.echo(f"{name:20} {load_yaml(path).get('description', '')}")


@app.command()
def plan(study: Study, settings: Overrides = None, as_json: AsJson = False) -> None:
    """Print the runs of a study, with their cost, before anything starts."""
    spec = load_study(study, settings or [])
    runs = plan_study(spec)
    if as_json:
        typer.echo(json.dumps(plan_as_json(spec.name, runs), indent=1))
        return
    decisions = decide(runs, Ledger(output_root(spec)), study_folder(spec), spec.resources)
    console = wide_console()
    console.print(plan_table(spec, decisions))
    executed = sum(run.train_flops("executed") for run in runs)
    nominal = sum(run.train_flops("nominal") for run in runs)
    seconds = sum(run.estimated_seconds(spec.resources) for run in runs)
    console.print(
        f"{len(runs)} runs, {executed:.3g} training FLOPs executed ({nominal:.3g} nominal), about "
        f"{seconds / 60:.0f} min of worker time one run after another (assumed rates, see "
        "orchestration/accelerators.py)",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def run(
    study: Study,
    settings: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to use (default: a private local one).")
    ] = None,
) -> None:
    """Train what the study lacks: finished runs are reused, interrupted ones go on."""
    from orchestration.study_runner import run_study

    spec = load_study(study, settings or [])
    view = StudyView()
    result = run_study(spec, address, view)
    if result.trained == 0 and result.complete:
        view.note(f"nothing to train: all {len(result.states)} runs are finished already")
    if result.unmirrored:
        view.note(
            f"MLflow did not take everything of {', '.join(result.unmirrored)}; their journals are "
            "whole on disk and the next `cola run` sends the rest"
        )
    if not result.complete:
        left = {name: state for name, state in result.states.items() if state != "finished"}
        view.note(f"not finished: {left}; the same command goes on from here")
        raise typer.Exit(130 if result.stopped else 1)


@app.command()
def status(study: Study, settings: Overrides = None, as_json: AsJson = False) -> None:
    """Show where each run of a study stands, from the ledger and the journals."""
    spec = load_study(study, settings or [])
    ledger = Ledger(output_root(spec))
    rows = [run_status(run, ledger) for run in plan_study(spec)]
    if as_json:
        typer.echo(json.dumps({"study": spec.name, "runs": rows}, indent=1))
        return
    table = Table(title=f"study {spec.name}")
    for column in rows[0]:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*("–" if value is None else str(value) for value in row.values()))
    wide_console().print(table)


@app.command()
def generate(
    run: Annotated[str, typer.Argument(help="STUDY/RUN-NAME, a run key, or a run's folder.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    right: Annotated[
        str | None,
        typer.Option(help="Text behind a gap of --max-new-tokens tokens, which is filled."),
    ] = None,
    output: Annotated[str, typer.Option(help="Output folder of the study.")] = "outputs",
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
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Continue a text, or fill a gap in one, with a finished run's model."""
    from orchestration.generate import fill_text, stream_text

    folder = find_run(run, Path(output).expanduser().resolve())
    if not (folder / "model").exists():
        raise SpecError(f"run {run}: is not finished, it has no exported model yet")
    spec = load_run_spec(folder)
    changes = list(settings or [])
    if max_new_tokens is not None:
        changes.append(f"max_new_tokens={max_new_tokens}")
    chosen = apply_overrides(spec.evaluation.generation.model_dump(mode="json"), changes)
    generation = GenerationSpec.parse(chosen)
    if right is not None:
        typer.echo(fill_text(folder, spec, prompt, right, generation, seed))
        return
    for piece in stream_text(folder, spec, prompt, generation, seed):
        typer.echo(piece, nl=False)
    typer.echo()


@app.command("check-release")
def check_release_folder(
    folder: Annotated[Path, typer.Argument(help="cola_dit/, cola_vae/, meta.json, expected.*")],
) -> None:
    """Recompute a folder of the public release's reference tensors; exit 1 if any is off."""
    from cola.release_check import TOLERANCE, check_release

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


def wide_console() -> Console:
    """A console whose tables are not cut: pipes and files have no width of their own."""
    console = Console()
    return console if console.is_terminal else Console(width=max(160, console.width))


def plan_table(study: StudySpec, decisions: list[Decision]) -> Table:
    """The plan as a table: what each run is, costs, and what will happen to it."""
    table = Table(title=f"{study.name}: budgets count {study.matching.compute} training FLOPs")
    columns = ("run", "core", "total", "tokens", "steps", "executed", "nominal", "unspent", "time")
    for column in columns:
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    table.add_column("what happens")
    for decision in decisions:
        run = decision.run
        table.add_row(
            run.name,
            f"{run.core_parameters:,}",
            f"{run.total_parameters:,}",
            f"{run.tokens:,}",
            " + ".join(f"{stage.steps}" for stage in run.spec.stages),
            f"{run.train_flops('executed'):.3g}",
            f"{run.train_flops('nominal'):.3g}",
            f"{run.budget_deviation_steps:.2f} step",
            f"{run.estimated_seconds(study.resources):.0f} s",
            f"{decision.action}: {decision.why}",
        )
    return table


def plan_as_json(study: str, runs: list[PlannedRun]) -> dict[str, object]:
    """The plan as plain values: `runs` and their `totals`."""
    rows = [
        {
            "name": run.name,
            "family": run.spec.family,
            "run_key": run.spec.run_key,
            "budget": run.spec.budget,
            "seed": run.spec.seed,
            "parameters": {
                "core": run.core_parameters,
                "embedding": run.embedding_parameters,
                "total": run.total_parameters,
            },
            "tokens": run.tokens,
            "steps": run.spec.steps,
            "stages": {stage.name: stage.steps for stage in run.spec.stages},
            "train_flops": {c: run.train_flops(c) for c in ("nominal", "executed")},
        }
        for run in runs
    ]
    totals = {
        "runs": len(runs),
        "tokens": sum(run.tokens for run in runs),
        "train_flops": {c: sum(r.train_flops(c) for r in runs) for c in ("nominal", "executed")},
    }
    return {"study": study, "runs": rows, "totals": totals}


def run_status(run: PlannedRun, ledger: Ledger) -> dict[str, object]:
    """One run's row of the status table."""
    entry = ledger.entry(run.spec.run_key)
    last: dict[str, object] = {}
    for line in JournalReader(ledger.run_folder(run.spec.run_key) / "journal.jsonl").new_lines():
        if line.kind != "event":
            last |= {"step": line.step, **line.values}
    return {
        "run": run.name,
        "family": FAMILY_LABELS[run.spec.family],
        "state": entry.state,
        "step": last.get("step", 0),
        "steps": run.spec.steps,
        "train_loss": last.get(Metric.TRAIN_LOSS),
        "nll_nats_per_token": last.get(Metric.NLL),
        "attempts": len(entry.attempts),
        "reason": entry.reason,
    }
