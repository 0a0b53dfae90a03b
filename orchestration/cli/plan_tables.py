"""A plan as tables: what each run costs, and the memory of every ZeRO stage."""

from __future__ import annotations

from typing import Literal

from rich.table import Table

from cola.compute.ladders import listed
from cola.study.schedule import final_learning_rates
from orchestration.planning.accelerators import accelerator_name
from orchestration.planning.comparison import budgets_as_json, counted, family_totals
from orchestration.planning.decisions import RunDecision
from orchestration.planning.plan import PlannedRun
from orchestration.planning.plan_summary import Plan
from orchestration.planning.units import count, duration


def plan_table(plan: Plan, decisions: list[RunDecision]) -> Table:
    """A row a run: what it is, what it costs, and what will happen to it."""
    counts = counted(plan.study)
    flops = plan.study.matching.convention
    follow = "" if "FLOPs" in counts else f"; {flops} FLOPs follow"
    table = Table(title=f"{plan.study.name}: budgets count {counts}{follow}")
    columns = (
        "run", "core", "total", "tokens", "epochs", "steps", "batch", "rate", "executed", "nominal",
        "unspent", "time", "hours",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    if any(cost.price is not None for cost in plan.costs):
        table.add_column("price", justify="right", no_wrap=True)
    ruled = any(run.latents for run in plan.runs)
    if ruled:
        table.add_column("latents", no_wrap=True)
    table.add_column("what happens")
    for run, cost, decision in zip(plan.runs, plan.costs, decisions, strict=True):
        epochs = plan.epochs(run)
        micro = run.micro_batch_sequences
        batch = run.spec.training.batch_sequences
        cells = [
            run.name,
            count(run.core_parameters),
            count(run.total_parameters),
            count(run.tokens),
            "?" if epochs is None else f"{plan.corpus.sign}{epochs:.2g}",
            " + ".join(f"{stage.steps}" for stage in run.spec.stages),
            f"{batch}" if micro is None else f"{batch} ({micro})",
            _rates(run),
            f"{run.train_flops('executed'):.3g}",
            f"{run.train_flops('nominal'):.3g}",
            f"{run.budget_deviation_steps:.2f} step",
            duration(cost.seconds),
            f"{cost.accelerator_hours:,.3g}",
        ]
        if cost.price is not None:
            cells.append(f"{cost.price:,.0f}")
        if ruled:
            cells.append(", ".join(f"{key} {value:g}" for key, value in run.latents.items()))
        table.add_row(*cells, f"{decision.action}: {decision.why}{plan.describe_prefix(run)}")
    return table


def _rates(run: PlannedRun) -> str:
    """Peak rates of the stages, and where the schedule ends after the run its last rate."""
    peaks, training = run.spec.learning_rates(), run.spec.training
    final = final_learning_rates(run.spec)
    texts = [
        f"{peak:.3g}"
        if training.of_stage(stage).schedule.horizon_steps is None
        else f"{peak:.3g} to {final[stage]:.4g}"
        for stage, peak in peaks.items()
    ]
    return " + ".join(dict.fromkeys(texts))


def family_table(plan: Plan) -> Table | None:
    """Sums over the runs of each entry; None where there is one."""
    found = family_totals(plan.runs, plan.corpus.tokens)
    if len(found) < 2:
        return None
    table = Table(title=f"By family: {counted(plan.study)} of each run, and sums over the runs")
    for column in ("family", "runs", "budgets", "steps", "tokens", "epochs", "executed", "nominal"):
        justify: Literal["left", "right"] = "left" if column == "family" else "right"
        table.add_column(column, justify=justify)
    amounts = budgets_as_json(plan.study, plan.runs)["of"]
    for name, sums in found.items():
        epochs = sums["most_epochs"]
        table.add_row(
            name,
            f"{sums['runs']}",
            listed(amounts[name]),
            f"{sums['steps']:,}",
            count(sums["tokens"]),
            "?" if epochs is None else f"at most {plan.corpus.sign}{epochs:.2g}",
            f"{sums['train_flops']['executed']:.3g}",
            f"{sums['train_flops']['nominal']:.3g}",
        )
    return table


def memory_table(plan: Plan) -> Table | None:
    """GB on each worker at every ZeRO stage; None where the device's memory is not known."""
    if not any(run.memory for run in plan.runs):
        return None
    name = accelerator_name(plan.study.resources)
    table = Table(title=f"GB on each {name}: states + activations (micro-batch x accumulation)")
    for column in ("run", "ZeRO 0", "ZeRO 1", "ZeRO 2", "ZeRO 3"):
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    for run in plan.runs:
        cells = [
            f"{m.states / 1e9:.1f} + {m.activations / 1e9:.1f} "
            f"({m.micro_batch_sequences} x {m.accumulation}"
            f"{', checkpointed' if m.checkpoints_activations else ''})"
            if m.fits
            else f"does not fit ({m.total / 1e9:.0f})"
            for m in run.memory
        ]
        table.add_row(run.name, *cells)
    return table


def execution_sentences(plan: Plan) -> list[str]:
    """How runs execute where that is more than plain passes: compiled, activations recomputed."""
    sentences = []
    compiled = [run.name for run in plan.runs if run.resources.compiles]
    if compiled:
        who = _named(compiled, plan)
        why = "" if plan.study.resources.compile else " (resources.compile: null, on GPUs)"
        sentences.append(f"Blocks are compiled, and AdamW is fused, in {who}{why}.")
    recomputed = [run.name for run in plan.runs if run.resources.checkpoints_activations]
    if recomputed:
        who = _named(recomputed, plan)
        asked = plan.study.resources.activation_checkpointing == "always"
        why = "as asked" if asked else "they do not fit the memory otherwise"
        sentences.append(
            f"Activation checkpointing in {who}: {why}. Blocks are computed again in the backward "
            "pass, which FLOPs, MFU and budgets do not count."
        )
    return sentences


def _named(names: list[str], plan: Plan) -> str:
    if len(names) == len(plan.runs):
        return "all runs"
    first = ", ".join(names[:3])
    return first if len(names) <= 3 else f"{len(names)} runs ({first}, ...)"
