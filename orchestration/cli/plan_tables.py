"""A plan as tables: what each run costs, and the memory of every ZeRO stage."""

from __future__ import annotations

from rich.table import Table

from orchestration.planning.accelerators import accelerator_name
from orchestration.planning.decisions import RunDecision
from orchestration.planning.plan_summary import Plan
from orchestration.planning.units import count, duration


def plan_table(plan: Plan, decisions: list[RunDecision]) -> Table:
    """A row a run: what it is, what it costs, and what will happen to it."""
    table = Table(title=f"{plan.study.name}: budgets count {plan.study.matching.compute} FLOPs")
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
            " + ".join(f"{rate:.3g}" for rate in dict.fromkeys(run.spec.learning_rates().values())),
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
            f"({m.micro_batch_sequences} x {m.accumulation})"
            if m.fits
            else f"does not fit ({m.total / 1e9:.0f})"
            for m in run.memory
        ]
        table.add_row(run.name, *cells)
    return table
