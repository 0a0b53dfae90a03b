"""A plan as tables: what each run costs, and the memory of every ZeRO stage."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from cola.compute.ladders import listed
from cola.study.schedule import final_learning_rates
from cola.terminal_tables import NONE, Column, FittedTable, fitted
from orchestration.planning.accelerators import accelerator_name
from orchestration.planning.comparison import budgets_as_json, counted, family_totals
from orchestration.planning.decisions import RunDecision
from orchestration.planning.plan import PlannedRun
from orchestration.planning.plan_summary import Plan
from orchestration.planning.units import count, duration


def plan_table(
    plan: Plan, decisions: list[RunDecision], console: Console, *, wide: bool
) -> FittedTable:
    """A row a run: what it is, what it costs, and what will happen to it.

    `prior share` is the share of executed FLOPs that trains the prior of latents, beside the VAE.
    """
    counts = counted(plan.study)
    flops = plan.study.matching.convention
    follow = "" if "FLOPs" in counts else f"; {flops} FLOPs follow"
    title = f"{plan.study.name}: budgets count {counts}{follow}"
    runs, costs = plan.runs, plan.costs
    columns = [
        Column("run", [run.name for run in runs], left=True),
        Column("core", [count(run.core_parameters) for run in runs], 1),
        Column("total", [count(run.total_parameters) for run in runs], 8),
        Column("tokens", [count(run.tokens) for run in runs], 1),
        Column("epochs", [_epochs(plan, run) for run in runs], 6),
        Column("steps", [" + ".join(f"{stage.steps}" for stage in run.spec.stages) for run in runs],
               3),
        Column("batch", [_batch(run) for run in runs], 7),
        Column("rate", [_rates(run) for run in runs], 9),
        Column("executed FLOPs", [f"{run.train_flops('executed'):.3g}" for run in runs],
               2 if flops == "executed" else 10),
        Column("nominal FLOPs", [f"{run.train_flops('nominal'):.3g}" for run in runs],
               2 if flops == "nominal" else 10),
        Column("unspent", [f"{run.budget_deviation_steps:.2f} step" for run in runs], 13),
        Column("time", [duration(cost.seconds) for cost in costs], 1),
        Column("hours", [f"{cost.accelerator_hours:,.3g}" for cost in costs], 5),
    ]  # fmt: skip
    if any(cost.price is not None for cost in costs):
        prices = [NONE if cost.price is None else f"{cost.price:,.0f}" for cost in costs]
        columns.append(Column("price", prices, 4))
    if any(run.prior_share is not None for run in runs):
        shares = [NONE if r.prior_share is None else f"{r.prior_share:.0%}" for r in runs]
        columns.append(Column("prior share", shares, 9))
    if any(run.latents for run in runs):
        settings = (", ".join(f"{key} {value:g}" for key, value in r.latents.items()) for r in runs)
        columns.append(Column("latents", list(settings), 11, left=True))
    happens = [
        f"{decision.action}: {decision.why}{plan.describe_prefix(run)}"
        for run, decision in zip(runs, decisions, strict=True)
    ]
    alike = len(set(happens)) == 1 and len(happens) > 1 and console.is_terminal and not wide
    if alike:  # one sentence for all of them leaves room for the numbers
        return replace(
            fitted(title, columns, console, wide=False), below=f"Every run: {happens[0]}."
        )
    columns.append(Column("what happens", happens, wraps=True))
    return fitted(title, columns, console, wide=wide)


def _epochs(plan: Plan, run: PlannedRun) -> str:
    epochs = plan.epochs(run)
    return "?" if epochs is None else f"{plan.corpus.sign}{epochs:.2g}"


def _batch(run: PlannedRun) -> str:
    """Sequences a step, and in parentheses those in work at once where that is known."""
    batch, micro = run.spec.training.batch_sequences, run.micro_batch_sequences
    return f"{batch}" if micro is None else f"{batch} ({micro})"


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


def family_table(plan: Plan, console: Console, *, wide: bool) -> FittedTable | None:
    """Sums over the runs of each entry; None where there is one."""
    found = family_totals(plan.runs, plan.corpus.tokens)
    if len(found) < 2:
        return None
    title = f"By family: {counted(plan.study)} of each run, and sums over the runs"
    amounts, sums = budgets_as_json(plan.study, plan.runs)["of"], found.values()
    epochs = [each["most_epochs"] for each in sums]
    columns = [
        Column("family", list(found), left=True),
        Column("runs", [f"{each['runs']}" for each in sums]),
        Column("budgets", [listed(amounts[name]) for name in found], wraps=True),
        Column("steps", [f"{each['steps']:,}" for each in sums], 3),
        Column("tokens", [count(each["tokens"]) for each in sums], 1),
        Column("most epochs", ["?" if most is None else f"{plan.corpus.sign}{most:.2g}"
                               for most in epochs], 2),
        Column("executed FLOPs", [f"{each['train_flops']['executed']:.3g}" for each in sums], 1),
        Column("nominal FLOPs", [f"{each['train_flops']['nominal']:.3g}" for each in sums], 4),
    ]  # fmt: skip
    return fitted(title, columns, console, wide=wide)


def memory_table(plan: Plan, console: Console, *, wide: bool) -> FittedTable | None:
    """GB on each worker at every ZeRO stage; None where the device's memory is not known.

    Where there is no room for all, the study's own stage is shown last.
    """
    if not any(run.memory for run in plan.runs):
        return None
    name = accelerator_name(plan.study.resources)
    title = f"GB on each {name}: states + activations (micro-batch x accumulation)"
    columns = [Column("run", [run.name for run in plan.runs], left=True)]
    for stage in range(4):
        cells = [_memory(run, stage) for run in plan.runs]
        rank = 0 if stage == plan.study.resources.zero_stage else 4 - stage
        columns.append(Column(f"ZeRO {stage}", cells, rank))
    return fitted(title, columns, console, wide=wide)


def _memory(run: PlannedRun, stage: int) -> str:
    found = next((memory for memory in run.memory if memory.zero_stage == stage), None)
    if found is None:
        return NONE
    if not found.fits:
        return f"does not fit ({found.total / 1e9:.0f})"
    return (
        f"{found.states / 1e9:.1f} + {found.activations / 1e9:.1f} "
        f"({found.micro_batch_sequences} x {found.accumulation}"
        f"{', checkpointed' if found.checkpoints_activations else ''})"
    )


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
