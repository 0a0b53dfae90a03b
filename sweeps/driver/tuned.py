"""What a tuning sweep found, as one file that a study takes: rules by entry, with their record."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cola.families.registry import definition_of, measured_kind
from cola.files import write_atomically
from cola.records import SweepFile, TrialFinished, TrialRequested, weakest_kind
from cola.spec import with_values
from cola.spec.yaml_text import dump_yaml
from cola.study import StudySpec
from cola.study.conditions import conditions_of
from cola.tuning.record import LEARNING_RATE, TuningRecord
from orchestration.planning.plan import PlannedRun
from sweeps.search.edges import edges_of, is_number
from sweeps.search.known_trials import known_point
from sweeps.search.trial_log import SweepLog, best_trial
from sweeps.space.domains import Space, contains, describe_domain
from sweeps.space.entries import BATCH, is_training, stage_of
from sweeps.space.points import PointPlanner
from sweeps.space.space import Point
from sweeps.space.storage import storage_errors

HEADER = (
    "# What a tuning sweep found: `cola run STUDY --set @FILE`. Plans and reports say whether it "
    "is as it was written.\n"
)
STATES = ("finished", "stopped", "diverged", "failed")


@dataclass(frozen=True)
class ArmResult:
    """The search of an arm: its best trial's point and metric, and the study of that point."""

    arm: str
    space: Space
    trials: Sequence[tuple[TrialRequested, TrialFinished]]
    point: Point
    metric: float
    metrics: Mapping[str, float]  # of the best trial
    study: StudySpec
    runs: Mapping[int, Sequence[PlannedRun]]  # by trial
    left_out: int  # earlier trials, of a space that was edited since

    @property
    def budget(self) -> float:
        """Training FLOPs of the arm's runs."""
        return self._a_run.spec.budget

    @property
    def parameters(self) -> int:
        """Of the arm's models, as the study counts them."""
        total = self.study.matching.parameters == "total"
        return self._a_run.total_parameters if total else self._a_run.core_parameters

    @property
    def _a_run(self) -> PlannedRun:
        return next(iter(self.runs.values()))[0]


def is_tuning_sweep(planner: PointPlanner) -> bool:
    """Whether every arm searches training settings of one entry, and nothing else."""
    spaces = planner.sweep.spaces()
    return all(
        arm in planner.sweep.arms
        and planner.sweep.arms[arm].entry is not None
        and all(is_training(key) for key in space)
        for arm, space in spaces.items()
    )


def write_tuned(planner: PointPlanner, trial_log: SweepLog, folder: Path) -> Path | str:
    """Write `tuned.yaml`; its path, or the clause that says why there is none.

    Raises:
        StorageError: it cannot be written.
    """
    entries: dict[str, list[ArmResult]] = defaultdict(list)
    for arm in planner.arms():
        result = arm_result(planner, trial_log, arm)
        if result is None:
            return f"arm {arm} has no finished trial with {planner.sweep.metrics[0].name}"
        entries[str(planner.sweep.arms[arm].entry)].append(result)
    for entry, results in entries.items():
        budgets = [result.budget for result in results]
        if len(set(budgets)) < len(budgets):
            return f"entry {entry} has two arms at one budget, so no rule over budgets follows"
    path = folder / SweepFile.TUNED
    record = tuning_record(planner, entries)
    with storage_errors(path):
        write_atomically(path, HEADER + dump_yaml({"tuning": record.model_dump(mode="json")}))
    return path


def arm_result(planner: PointPlanner, trial_log: SweepLog, arm: str) -> ArmResult | None:
    """The arm's search; None where no trial finished with the metric."""
    goal = planner.sweep.metrics[0]
    best = best_trial(trial_log, arm, goal)
    if best is None:
        return None
    point = known_point(best[0])
    trials = trial_log.searched_trials(arm)
    return ArmResult(
        arm=arm,
        space=planner.sweep.spaces()[arm],
        trials=trials,
        point=point,
        metric=best[1].metrics[goal.name],
        metrics=best[1].metrics,
        study=planner.plan(arm, point).study,
        runs={r.trial: planner.plan(arm, known_point(r)).runs for r, _ in trials},
        left_out=len(trial_log.ended_trials(arm)) - len(trials),
    )


def tuning_record(
    planner: PointPlanner, entries: Mapping[str, Sequence[ArmResult]]
) -> TuningRecord:
    """The record of all entries, with its digest."""
    sweep, base, goal = planner.sweep, planner.base, planner.sweep.metrics[0]
    return TuningRecord.parse(
        {
            "sweep": sweep.name,
            "sweep_hash": sweep.content_hash(),
            "metric": {
                "name": goal.name,
                "direction": goal.direction,
                "split": split_of(goal.name),
            },
            "seeds": list(base.seeds),
            "compute": base.matching.convention,
            "parameters": base.matching.parameters,
            "data": {
                "fingerprint": planner.fingerprint(base),
                "tokenizer": base.data.tokenizer.model_dump(mode="json"),
                "sequence_length": base.data.sequence_length,
            },
            "families": {
                entry: entry_values(entry, sorted(results, key=lambda result: result.budget))
                for entry, results in entries.items()
            },
        },
        origin=f"what sweep {sweep.name} found",
    ).signed()


def split_of(metric: str) -> str:
    """The part of the text on which a metric is measured."""
    others = {"train": "train", "eval": "tasks"}
    return others.get(metric.partition("/")[0], "validation")


def entry_values(entry: str, results: Sequence[ArmResult]) -> dict[str, Any]:
    """An entry's part of the record, from its arms by budget."""
    study = results[-1].study
    settings = study.families[entry]
    family, likelihood = definition_of(settings.family), study.evaluation.likelihood
    declared = family.nll_kind(settings, likelihood)
    kinds = [measured_kind(settings.family, declared, result.metrics) for result in results]
    training, notes = training_values(results)
    left_out = sum(result.left_out for result in results)
    if left_out:
        notes.append(f"{left_out} trials of an earlier space are neither counted nor searched")
    return {
        "family": settings.family,
        "nll_kind": weakest_kind(kind for kind in kinds if kind is not None),
        "searched": {key: searched(key, results) for key in results[0].space},
        "budgets": [budget_values(result) for result in results],
        "training": training or None,
        "rules": rule_values(results, study.data.sequence_length) or None,
        "conditions": conditions_of(study, entry, results[0].space),
        "notes": notes,
    }


def budget_values(result: ArmResult) -> dict[str, Any]:
    """The record of one search."""
    states = [str(outcome.state) for _, outcome in result.trials]
    tried = [known_point(r) for r, outcome in result.trials if outcome.state != "failed"]
    return {
        "budget": result.budget,
        "parameters": result.parameters,
        "trials": len(states),
        **{state: states.count(state) for state in STATES},
        "beyond": sum(request.beyond for request, _ in result.trials),
        "flops": sum(outcome.flops for _, outcome in result.trials),
        "shared_flops": sum(shared_flops(result, *trial) for trial in result.trials),
        "metric": result.metric,
        "at_edge": [edge.key for edge in edges_of(result.space, result.point, tried)],
    }


def shared_flops(result: ArmResult, request: TrialRequested, outcome: TrialFinished) -> float:
    """Executed FLOPs of the trial's finished runs and first stages that were trained before it."""
    reused = {run.run_key for run in outcome.runs if run.reused}
    runs = result.runs[request.trial] if reused else ()
    return outcome.shared_flops + sum(r.train_flops("executed") for r in runs if r.key in reused)


def searched(key: str, results: Sequence[ArmResult]) -> str:
    """The values of a key that were searched, with those beyond an edge."""
    domain = results[0].space[key]
    text = describe_domain(domain)
    steps = [
        f"{value:.4g} at {result.budget:.3g}"
        for result in results
        for request, _ in result.trials
        if request.beyond and is_number(value := request.point.get(key))
        if not contains(domain, value)  # of the other keys such a trial has the best values
    ]
    return f"{text}, and beyond an edge {', '.join(steps)}" if steps else text


def rule_values(results: Sequence[ArmResult], sequence_length: int) -> dict[str, Any]:
    """Rules over the budget for rates and the batch, where they were searched."""
    rules: dict[str, Any] = {}
    for key in results[0].space:
        found = {r.budget: r.point[key] for r in results if key in r.point}
        stage = stage_of(key)
        if key == LEARNING_RATE and found:
            rules["learning_rate"] = tuned_rule(found)
        elif stage is not None and found:
            rules.setdefault("stage_learning_rates", {})[stage] = tuned_rule(found)
        elif key == BATCH and found:
            tokens = {budget: value * sequence_length for budget, value in found.items()}
            rules["batch_tokens"] = tuned_rule(tokens)
            rules["batch_multiple"] = math.gcd(*found.values())
    return rules


def tuned_rule(values: Mapping[float, float]) -> dict[str, Any]:
    """A rule through the best values by budget."""
    points = [{"budget": budget, "value": value} for budget, value in values.items()]
    return {"kind": "tuned", "points": points}


def training_values(results: Sequence[ArmResult]) -> tuple[dict[str, Any], list[str]]:
    """Settings that no rule can give, as those of the largest budget; notes where others differ."""
    settings, notes = {}, []
    for key in results[0].space:
        if key in (LEARNING_RATE, BATCH) or stage_of(key) is not None:
            continue
        found = {r.budget: r.point[key] for r in results if key in r.point}
        if not found:
            continue
        largest = found[max(found)]
        settings[key] = largest
        if any(value != largest for value in found.values()):
            each = ", ".join(f"{value} at {budget:.3g}" for budget, value in found.items())
            notes.append(f"{key} was best at {each}; that of the largest budget is taken")
    values: dict[str, Any] = with_values({"training": {}}, settings)["training"]
    return values, notes
