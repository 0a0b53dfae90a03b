"""A plan's totals, what it matches between families, warnings, and JSON (torch-free)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cola.compute.ladders import ladder_sentences
from cola.families.registry import definition_of
from cola.study import StudySpec
from cola.study.chosen_sizes import moved_cautions
from cola.study.conditions import tuned_curves, tuning_notes
from cola.study.designs import FromFitDesign
from cola.study.schedule import final_learning_rates
from cola.tuning.text import tuning_as_json
from orchestration.planning.accelerators import accelerator_name
from orchestration.planning.comparison import (
    amounts_by_label,
    budgets_as_json,
    compared_at,
    counted,
    family_totals,
    shape_cautions,
    spreads,
)
from orchestration.planning.corpus_size import CorpusSize, repeat_cautions
from orchestration.planning.costs import (
    Costs,
    basis_of,
    bytes_per_token_id,
    context_flops,
    evaluation_flops,
    executed_flops,
    held_out_flops,
    predictive_flops,
    run_costs,
    sample_flops,
    task_flops,
    warm_starts,
)
from orchestration.planning.decisions import RunDecision
from orchestration.planning.memory import WEIGHT, MemoryPlan
from orchestration.planning.plan import PlannedRun
from orchestration.planning.rates import Rates
from orchestration.planning.shared_prefixes import PrefixPlan, prefix_plans
from orchestration.planning.units import duration

# Chosen: a larger spread between families is not called matched.
MATCHED = 0.03
FEW_STEPS = 100  # chosen: a stage below it says little
MUCH_VALIDATION = 0.25  # chosen: a share of the training FLOPs that is worth a warning


@dataclass(frozen=True)
class Plan:
    """Planned runs with their costs, and the corpus they read."""

    study: StudySpec
    runs: list[PlannedRun]
    costs: list[Costs]
    corpus: CorpusSize
    prefixes: dict[str, PrefixPlan]

    @classmethod
    def of(
        cls, study: StudySpec, runs: Sequence[PlannedRun], corpus: CorpusSize, *, rates: Rates
    ) -> Plan:
        """Planned runs with their costs, at measured `rates` where there are any."""
        prefixes = prefix_plans(runs)
        costs = [
            run_costs(
                run.spec,
                run.resources,
                run.total_parameters,
                keep=study.checkpoint.keep,
                rates=rates,
                first_step=prefixes[run.key].first_step,
                warm=warm,
            )
            for run, warm in zip(runs, warm_starts(run.resources for run in runs), strict=True)
        ]
        return cls(study, list(runs), costs, corpus, prefixes)

    @property
    def distinct_train_flops(self) -> float:
        """Executed training FLOPs with every shared prefix counted once."""
        runs = {run.key: run.spec for run in self.runs}
        return sum(
            sum(executed_flops(spec, self.prefixes[key].first_step)) for key, spec in runs.items()
        )

    def describe_prefix(self, run: PlannedRun) -> str:
        """A clause that names the run that trains this run's prefix; empty where there is none."""
        resumes_from = self.prefixes[run.key].resumes_from
        if not resumes_from:
            return ""
        prefix, publisher = resumes_from[0]
        name = next(other.name for other in self.runs if other.key == publisher)
        return f"; its first {prefix.step} steps are those of {name}"

    def epochs(self, run: PlannedRun) -> float | None:
        """How often the run reads the corpus; None where the size is not known."""
        return None if self.corpus.tokens is None else run.tokens / self.corpus.tokens


def totals(plan: Plan) -> dict[str, Any]:
    """Sums over the runs."""
    prices = [cost.price for cost in plan.costs if cost.price is not None]
    vocab = max(run.spec.model.vocab_size for run in plan.runs)
    tokens = plan.corpus.tokens
    return {
        "runs": len(plan.runs),
        "tokens": sum(run.tokens for run in plan.runs),
        "train_flops": {
            convention: sum(run.train_flops(convention) for run in plan.runs)
            for convention in ("nominal", "executed")
        },
        "train_flops_carried_out": plan.distinct_train_flops,
        "task_flops": sum(task_flops(run.spec) for run in plan.runs),
        "seconds_one_after_another": sum(cost.seconds for cost in plan.costs),
        "accelerator": accelerator_name(plan.study.resources),
        "accelerator_hours": sum(cost.accelerator_hours for cost in plan.costs),
        "price": sum(prices) if prices else None,
        "checkpoint_bytes": sum(cost.checkpoint_bytes for cost in plan.costs),
        "model_bytes": sum(WEIGHT * run.total_parameters for run in plan.runs),
        "token_bytes": None if tokens is None else tokens * bytes_per_token_id(vocab),
    }


def total_sentence(plan: Plan) -> str:
    """The totals, and whether they rest on measured rates."""
    sums = totals(plan)
    flops = sums["train_flops"]
    basis = basis_of(plan.costs, sums["accelerator"])
    price = "" if sums["price"] is None else f", {sums['price']:,.0f} in money"
    tokens = sums["token_bytes"]
    stored = "" if tokens is None else f" and {plan.corpus.sign}{tokens / 1e9:,.3g} GB of tokens"
    kept = plan.study.checkpoint
    stays = kept.keep_finished or kept.keep_best or kept.keep_points
    left = "" if stays else f" ({sums['model_bytes'] / 1e9:,.3g} GB stay, as models)"
    shared = any(prefixes.resumes_from for prefixes in plan.prefixes.values())
    once = f", {plan.distinct_train_flops:.3g} trained, shared prefixes once" if shared else ""
    tasks = f", tasks {sums['task_flops']:.3g} more" if sums["task_flops"] else ""
    return (
        f"{sums['runs']} runs, {flops['executed']:.3g} training FLOPs executed "
        f"({flops['nominal']:.3g} nominal{once}){tasks}, {sums['accelerator_hours']:,.3g} "
        f"{sums['accelerator']} hours{price}, {duration(sums['seconds_one_after_another'])} one "
        f"run after another ({basis}); {sums['checkpoint_bytes'] / 1e9:,.3g} GB of checkpoints"
        f"{left}{stored}"
    )


def matching_sentences(plan: Plan) -> list[str]:
    """What is matched at every rung, and by how much the rest differs between families."""
    matching = plan.study.matching
    spread, where = spreads(plan.study, plan.runs), compared_at(plan.study, plan.runs)
    asked = [f"{matching.parameters} parameters", counted(plan.study)]
    if matching.unit == "steps" and spread.get("tokens") == 0:
        asked.append("tokens")
    matched = [name for name in asked if name in spread and spread[name] <= MATCHED]
    at = {name: "" if name.endswith("parameters") else where for name in spread}
    held = "".join(f"{name} (within {spread[name]:.1%}{at[name]}), " for name in matched)
    unmatched = ", ".join(
        [f"{name} (entries have no budget in common)" for name in asked if name not in spread]
        + [
            f"{name} (up to {value:.0%} apart{at[name]}"
            f"{', though asked for' if name in asked else ''})"
            for name, value in spread.items()
            if name not in matched
        ]
    )
    own = [
        name
        for name, entry in plan.study.families.items()
        if entry.training or entry.rules or plan.study.tuned(name)
    ]
    common = "data order and optimiser" if own else "data order, optimiser and schedule"
    sentences = [
        f"Matched: {held}{common}.",
        f"Not matched: {unmatched}.",
        *tuning_of(plan.study)["sentences"],
    ]
    if matching.unit != "flops":
        sentences.append(
            f"Runs are matched in {matching.unit}, over all of a family's stages; FLOPs follow, "
            f"and fits count them as {matching.convention}."
        )
    sentences += ladder_sentences(amounts_by_label(plan.runs), counted(plan.study))
    if own:
        sentences.append(f"With training settings of their own: {', '.join(own)}.")
    if any(prefixes.resumes_from for prefixes in plan.prefixes.values()):
        how = "in full to each" if matching.stage1 == "charged" else "in equal parts to all"
        sentences.append(
            "Prefixes that runs share are trained once. Every run is charged its own steps in "
            f"full; a first stage that serves several is charged {how}."
        )
    return sentences


def tuning_of(study: StudySpec) -> dict[str, Any]:
    """How the study's settings were tuned, as plain values (see `tuning_as_json`)."""
    values = tuning_as_json(study.tuning, tuned_curves(study), study.matching.tuning)
    return values | {"sentences": [*values["sentences"], *tuning_notes(study)]}


def warnings(plan: Plan) -> list[str]:
    """What to check before paying for the plan."""
    cautions = plan.corpus.summary.cautions()
    most = max(plan.runs, key=lambda run: run.tokens)
    epochs = plan.epochs(most)
    if epochs is None:
        cautions.append("the corpus' size is unknown: epochs are not checked before it is prepared")
    elif epochs > plan.study.max_epochs:
        cautions.append(
            f"{most.name} would read the corpus about {epochs:.1f} times (estimated from its "
            f"bytes), more than max_epochs={plan.study.max_epochs:g}: it will be refused if the "
            "prepared corpus has no more"
        )
    cautions += repeat_cautions(most.name, epochs)
    for run in plan.runs:
        share = (
            run.spec.evaluation.points * evaluation_flops(run.spec) / run.train_flops("executed")
        )
        if share > MUCH_VALIDATION:
            cautions.append(
                f"validation of {run.name} takes {share:.0%} of what its training takes (budgets "
                "do not count it); lower evaluation.points or validation_sequences"
            )
    cautions += width_warnings(plan)
    if isinstance(plan.study.design, FromFitDesign):
        cautions += plan.study.design.cautions()
    cautions += moved_cautions(plan.study)
    cautions += [
        f"{key} is set, but no family of the study reads it" for key in unread_settings(plan.study)
    ]
    cautions += shape_cautions(plan.runs)
    short = [r for r in plan.runs if min(stage.steps for stage in r.spec.stages) < FEW_STEPS]
    if short:
        names = ", ".join(run.name for run in short[:3])
        cautions.append(f"{len(short)} runs have a stage of fewer than {FEW_STEPS} steps ({names})")
    return cautions


def capacities(plan: Plan) -> dict[str, list[float]]:
    """Nats a token that the latents of each variant's runs can hold, each number once; without
    variants that have no latents of a fixed capacity."""
    found: dict[str, list[float]] = {}
    for run in plan.runs:
        capacity = definition_of(run.spec.family).channel_capacity(run.spec.model)
        if capacity is not None and capacity not in found.setdefault(run.variant, []):
            found[run.variant].append(capacity)
    return found


def capacity_sentences(plan: Plan) -> list[str]:
    """What the latents can hold, beside what a token can be worth."""
    each = [
        f"{variant} {' to '.join(f'{nats:.2f}' for nats in sorted({min(all_), max(all_)}))}"
        for variant, all_ in capacities(plan).items()
    ]
    if not each:
        return []
    return [
        f"Capacity of the latents, in nats a token: {', '.join(each)}. A token is worth at most "
        f"{_token_nats(plan):.2f} (ln of the vocabulary), less in text: reports and `cola status` "
        "show the rate that is used, and the entropy of token frequencies."
    ]


def width_warnings(plan: Plan) -> list[str]:
    """Latents wider than anything they could be asked to hold."""
    most = _token_nats(plan)
    return [
        f"the latents of {variant} hold up to {max(found):.3g} nats a token, more than the "
        f"{most:.3g} that any token can be worth: the prior pays for what says nothing; lower "
        "latent_dim or log_snr, or raise patch_size"
        for variant, found in capacities(plan).items()
        if max(found) > most
    ]


def _token_nats(plan: Plan) -> float:
    return math.log(min(run.spec.model.vocab_size for run in plan.runs))


def unread_settings(study: StudySpec) -> list[str]:
    """Settings of generation, likelihood and latents that were given but that no family reads."""
    entries = [(definition_of(each.family), each) for each in study.families.values()]
    parts = {"generation": study.evaluation.generation, "likelihood": study.evaluation.likelihood}
    read = {
        part: frozenset().union(*(family.keys_read(part, each) for family, each in entries))
        for part in parts
    }
    latent = study.rules.latent.model_dump(exclude_none=True) if study.rules.latent else {}
    ruled = frozenset().union(*(settings.latent_keys for settings in study.families.values()))
    return [f"rules.latent.{key}" for key in latent if key not in ruled] + [
        f"evaluation.{part}.{key}"
        for part, settings in parts.items()
        for key, field in type(settings).model_fields.items()
        if key not in read[part] and getattr(settings, key) != field.default
    ]


def plan_as_json(plan: Plan, decisions: Sequence[RunDecision] = ()) -> dict[str, Any]:
    """The plan as plain values: `corpus`, `runs`, `totals`, `matching`, `tuning`, `warnings`.

    Of `decisions` each run has its `action` and `why`.
    """
    rows = [_run_as_json(plan, r, cost) for r, cost in zip(plan.runs, plan.costs, strict=True)]
    for row, decision in zip(rows, decisions, strict=False):
        row |= {"action": decision.action, "why": decision.why}
    return {
        "study": plan.study.name,
        "corpus": {"tokens": plan.corpus.tokens, "tokens_counted": plan.corpus.exact}
        | plan.corpus.summary.as_json(),
        "budgets": budgets_as_json(plan.study, plan.runs),
        "runs": rows,
        "families": family_totals(plan.runs, plan.corpus.tokens),
        "totals": totals(plan),
        "matching": matching_sentences(plan),
        "tuning": tuning_of(plan.study),
        "capacity": capacity_sentences(plan),
        "warnings": warnings(plan),
    }


def _run_as_json(plan: Plan, run: PlannedRun, cost: Costs) -> dict[str, Any]:
    spec, family = run.spec, definition_of(run.spec.family)
    return {
        "name": run.name,
        "family": spec.family,
        "variant": run.variant,
        "run_key": spec.run_key,
        "rung": run.rung,
        "budget": spec.budget,
        "counted": {"unit": run.unit, "amount": run.amount},
        "seed": spec.seed,
        "parameters": {
            "core": run.core_parameters,
            "embedding": run.embedding_parameters,
            "total": run.total_parameters,
        },
        "channel_capacity_nats_per_token": family.channel_capacity(spec.model),
        "tokens": run.tokens,
        "epochs": plan.epochs(run),
        "steps": spec.steps,
        "stages": {stage.name: stage.steps for stage in spec.stages},
        "first_step": plan.prefixes[spec.run_key].first_step,
        "batch_sequences": spec.training.batch_sequences,
        "micro_batch_sequences": run.micro_batch_sequences,
        "compile": run.resources.compiles,
        "activation_checkpointing": run.resources.checkpoints_activations,
        "learning_rates": spec.learning_rates(),
        "final_learning_rates": final_learning_rates(spec),
        "latents": dict(run.latents),
        "prior_share": run.prior_share,
        "train_flops": {c: run.train_flops(c) for c in ("nominal", "executed")},
        "train_flops_per_token": {
            stage.name: family.train_flops_per_token(
                spec.model,
                spec.objective,
                spec.data.sequence_length,
                stage=stage.name,
                convention="executed",
            ).components
            for stage in spec.stages
        },
        "validation_flops": spec.evaluation.points * evaluation_flops(spec),
        "test_flops": evaluation_flops(spec),
        "sample_flops": sample_flops(spec),
        "task_flops": task_flops(spec),
        "held_out_flops": held_out_flops(spec) + context_flops(spec),
        "predictive_flops": predictive_flops(spec),
        "memory": [_memory_as_json(memory) for memory in run.memory],
        "seconds": cost.seconds,
        "accelerator_hours": cost.accelerator_hours,
        "price": cost.price,
        "checkpoint_bytes": cost.checkpoint_bytes,
        "calibrated": cost.calibrated,
        "utilization": {
            stage: {"mfu": used.mfu, "basis": used.basis, "extrapolated": list(used.extrapolated)}
            for stage, used in cost.utilization.items()
        },
    }


def _memory_as_json(memory: MemoryPlan) -> dict[str, Any]:
    return {
        "zero_stage": memory.zero_stage,
        "states_bytes": memory.states,
        "activation_bytes": memory.activations,
        "total_bytes": memory.total,
        "micro_batch_sequences": memory.micro_batch_sequences,
        "accumulation": memory.accumulation,
        "activation_checkpointing": memory.checkpoints_activations,
        "fits": memory.fits,
    }
