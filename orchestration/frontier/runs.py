"""Which runs of a study a frontier is measured on: of each curve those of one budget and size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cola.errors import SpecError
from cola.families.interface.definition import FamilyDefinition
from cola.families.registry import curve_label, definition_of
from cola.records import Metric
from orchestration.inference.target import Target, find_target
from orchestration.planning.catalog import load_run_spec
from orchestration.planning.decisions import saved_plan
from orchestration.state.last_validation import last_validation
from orchestration.state.ledger import Ledger
from orchestration.state.paths import OutputFolder, RunFolder


@dataclass(frozen=True)
class CurveRuns:
    """A curve's runs of one budget and size, a seed each."""

    variant: str
    budget: float
    core_parameters: int
    targets: tuple[Target, ...]

    @property
    def family(self) -> FamilyDefinition:
        """The curve's family."""
        return definition_of(self.targets[0].family)

    @property
    def keys(self) -> frozenset[str]:
        """Keys of generation that its models read."""
        return self.family.keys_read("generation", self.targets[0].sizes())

    @property
    def label(self) -> str:
        """Its name for people."""
        return curve_label(self.variant, self.family.name)


@dataclass(frozen=True)
class _Finished:
    """A finished run of the last plan; `loss`: of its last validation (nats a token)."""

    variant: str
    budget: float
    core_parameters: int
    loss: float
    target: Target


def chosen_runs(study: str, root: Path, budget: float | None) -> list[CurveRuns]:
    """Of each curve the runs of its largest budget, or of the one given; of several sizes that of
    the least loss.

    Raises:
        SpecError: the study has no finished run, or none of the budget.
    """
    finished = finished_of(study, root)
    if budget is not None:
        known = sorted({run.budget for run in finished})
        finished = [run for run in finished if math.isclose(run.budget, budget, rel_tol=1e-6)]
        if not finished:
            raise SpecError(
                f"--budget {budget:g}: no finished run of {study} has it; budgets: "
                f"{', '.join(f'{each:g}' for each in known)}"
            )
    curves: dict[str, list[_Finished]] = {}
    for run in finished:
        curves.setdefault(run.variant, []).append(run)
    return [_of_curve(variant, runs) for variant, runs in curves.items()]


def finished_of(study: str, root: Path) -> list[_Finished]:
    """The study's finished runs that have a model.

    Raises:
        SpecError: there is none.
    """
    found, ledger = [], Ledger(root)
    for slot, values in saved_plan(OutputFolder(root).studies / study).items():
        folder = ledger.run_folder(values["run_key"])
        if not RunFolder(folder).model.exists():
            continue
        spec, line = load_run_spec(folder), last_validation(folder)
        loss = math.inf if line is None else float(line.values.get(Metric.NLL, math.inf))
        core = definition_of(spec.family).parameter_counts(spec.model).core
        target = find_target(f"{study}/{values['name']}", root, None)
        found.append(_Finished(slot.rsplit("/", 2)[0], spec.budget, core, loss, target))
    if not found:
        raise SpecError(
            f"study {study}: {root} has no finished run of it; `cola run {study}` trains them"
        )
    return found


def best_reference(study: str, root: Path) -> Target | None:
    """The study's finished run of the least loss whose family can judge texts; None without one."""
    able = [
        run
        for run in finished_of(study, root)
        if definition_of(run.target.family).exact_in_one_pass
    ]
    return min(able, key=lambda run: run.loss).target if able else None


def _of_curve(variant: str, runs: Sequence[_Finished]) -> CurveRuns:
    top = max(run.budget for run in runs)
    sizes: dict[int, list[_Finished]] = {}
    for run in runs:
        if run.budget == top:
            sizes.setdefault(run.core_parameters, []).append(run)
    best = min(sizes.values(), key=lambda mine: sum(run.loss for run in mine) / len(mine))
    targets = tuple(run.target for run in best)
    return CurveRuns(variant, top, best[0].core_parameters, targets)
