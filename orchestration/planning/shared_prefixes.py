"""Beginnings that several runs share: which they are, and where their training state lies.

Two runs share a beginning when everything that decides the state after some step is equal: model
part, objective, data, seed, optimiser and the rate of every step so far. The points of a trajectory
share the stable phase of their schedule; runs with the same VAE share Cola DLM's first stage. The
most expensive of them trains it and publishes its state, the others go on from there. A run without
the state it could have taken trains from its start, with the same result.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cola.families.registry import definition_of
from cola.spec.base import canonical_json
from cola.study import RunSpec, StagePlan
from cola.study.run import ScheduleSpec
from cola.study.schedule import stable_steps, warmup_steps
from orchestration.planning.plan import PlannedRun
from orchestration.state.paths import OutputFolder

FORMAT = 2  # of the published state
NOT_SHAPE = {"warmup_fraction", "warmup_steps", "rate_changes"}  # keys of a schedule


@dataclass(frozen=True)
class Beginning:
    """The first `step` steps of a run; runs with the same `key` have the same."""

    key: str
    step: int

    def folder(self, root: Path) -> Path:
        """Where its training state is published, within the output folder."""
        return OutputFolder(root).prefixes / self.key


@dataclass(frozen=True)
class Sharing:
    """What a run publishes for others, and what it takes, the longest first, from whom."""

    publishes: tuple[Beginning, ...] = ()
    takes: tuple[tuple[Beginning, str], ...] = ()  # with the provider's run key

    @property
    def first_step(self) -> int:
        """Steps that another run carries out."""
        return self.takes[0][0].step if self.takes else 0


def shared_beginnings(plan: Sequence[PlannedRun]) -> dict[str, Sharing]:
    """By run key. Runs of one plan whose key is equal count as one."""
    runs = {run.key: run.spec for run in plan}
    by_cost = sorted(
        runs, key=lambda key: (-runs[key].train_flops_at(runs[key].steps, "executed"), key)
    )
    publishes: dict[str, set[Beginning]] = {key: set() for key in runs}
    takes: dict[str, list[tuple[Beginning, str]]] = {key: [] for key in runs}
    for place, key in enumerate(by_cost):
        for step in branching_steps(runs[key]):
            beginning = Beginning(beginning_key(runs[key], step), step)
            for provider in by_cost[:place]:
                if has_beginning(runs[provider], beginning):
                    publishes[provider].add(beginning)
                    takes[key].append((beginning, provider))
                    break
    return {
        key: Sharing(
            tuple(sorted(publishes[key], key=lambda found: found.step)),
            tuple(sorted(takes[key], key=lambda found: -found[0].step)),
        )
        for key in runs
    }


def remove_published(plan: Sequence[PlannedRun], root: Path) -> None:
    """Delete the states that the plan's runs published: none of them needs one any more."""
    for sharing in shared_beginnings(plan).values():
        for beginning in sharing.publishes:
            shutil.rmtree(beginning.folder(root), ignore_errors=True)


def branching_steps(run: RunSpec) -> Iterator[int]:
    """Steps up to which another run can be the same: ends of stages, ends of stable phases."""
    before = 0
    for stage in run.stages:
        stable = stable_steps(run.training.schedule, stage.steps)
        if stable:
            yield before + stable
        before += stage.steps
        if before < run.steps and stable != stage.steps:
            yield before


def has_beginning(run: RunSpec, beginning: Beginning) -> bool:
    """Whether the run passes through this state on its way."""
    return beginning.step < run.steps and beginning_key(run, beginning.step) == beginning.key


def beginning_at(run: RunSpec, share: float) -> Beginning:
    """The run's beginning up to a share of its steps."""
    step = run.step_at(share)
    return Beginning(beginning_key(run, step), step)


def beginning_key(run: RunSpec, step: int) -> str:
    """SHA-256 (hex) of all that decides the training state after `step` steps."""
    training = run.training.model_dump(mode="json", exclude={"schedule"})
    content = {
        "format": FORMAT,
        "seed": run.seed,
        "data": run.data.model_dump(mode="json"),
        "data_fingerprint": run.data_fingerprint,
        "training": training,
        "stages": list(_stages_until(run, step)),
        **_changes_until(run, step),
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _stages_until(run: RunSpec, step: int) -> Iterator[dict[str, Any]]:
    left = step
    for stage in run.stages:
        if left <= 0:
            return
        taken = min(left, stage.steps)
        rates = _rates_until(run.training.schedule, stage, taken)
        # What of model and objective decides the state at the end of the stage.
        deciding = definition_of(run.family).deciding(run.model, run.objective, stage.name)
        yield {"stage": stage.name, "steps": taken, "rates": rates, **deciding}
        left -= taken


def _changes_until(run: RunSpec, step: int) -> dict[str, Any]:
    """Changes of the rate that the first `step` steps have seen."""
    changes = [(run.step_at(c.at), c.factor) for c in run.training.schedule.rate_changes]
    passed = [change for change in changes if change[0] < step]
    return {"changes": passed} if passed else {}


def _rates_until(schedule: ScheduleSpec, stage: StagePlan, steps: int) -> Mapping[str, Any]:
    """What the rates of a stage's first steps depend on."""
    warmup = warmup_steps(schedule, stage.steps)
    if steps <= stable_steps(schedule, stage.steps):
        return {"warmup": warmup}
    return {
        **schedule.model_dump(mode="json", exclude=NOT_SHAPE),
        "warmup": warmup,
        "of": stage.steps,
    }
