"""Prefixes that runs share: which they are, and where their training state is published.

A prefix is the first steps of a run. Two runs share one when everything that decides the training
state after it is equal: the part of the model that is trained so far, objective, data, seed,
optimiser and the rate of every step. The points of a trajectory share the stable phase of their
schedule; runs with the same VAE share Cola DLM's first stage. The most expensive run trains the
prefix and publishes its state; the others resume from that. A run that finds no published state
trains from its start, with the same result.
"""

from __future__ import annotations

import hashlib
import logging
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

log = logging.getLogger(__name__)

FORMAT = 2  # of the published state, as `Manifest.format`
NOT_SHAPE = {"warmup_fraction", "warmup_steps", "rate_changes"}  # keys of a schedule


@dataclass(frozen=True)
class Prefix:
    """The first `step` steps of a run; runs whose prefix has the same `key` share it."""

    key: str
    step: int

    def folder(self, root: Path) -> Path:
        """Where its training state is published, within the output folder."""
        return OutputFolder(root).prefixes / self.key


@dataclass(frozen=True)
class PrefixPlan:
    """Prefixes that a run publishes, and those that it can resume from, the longest first."""

    publishes: tuple[Prefix, ...] = ()
    resumes_from: tuple[tuple[Prefix, str], ...] = ()  # with the run key of its publisher

    @property
    def first_step(self) -> int:
        """Steps that another run trains."""
        return self.resumes_from[0][0].step if self.resumes_from else 0


def prefix_plans(plan: Sequence[PlannedRun]) -> dict[str, PrefixPlan]:
    """Prefix plan of each run, by run key. Runs of one plan whose key is equal count as one."""
    runs = {run.key: run.spec for run in plan}
    by_cost = sorted(
        runs, key=lambda key: (-runs[key].train_flops_at(runs[key].steps, "executed"), key)
    )
    publishes: dict[str, set[Prefix]] = {key: set() for key in runs}
    resumes_from: dict[str, list[tuple[Prefix, str]]] = {key: [] for key in runs}
    for index, key in enumerate(by_cost):
        for step in branch_steps(runs[key]):
            prefix = Prefix(prefix_key(runs[key], step), step)
            for publisher in by_cost[:index]:
                if has_prefix(runs[publisher], prefix):
                    publishes[publisher].add(prefix)
                    resumes_from[key].append((prefix, publisher))
                    break
    return {
        key: PrefixPlan(
            tuple(sorted(publishes[key], key=lambda prefix: prefix.step)),
            tuple(sorted(resumes_from[key], key=lambda pair: -pair[0].step)),
        )
        for key in runs
    }


def remove_published_prefixes(plan: Sequence[PlannedRun], root: Path) -> None:
    """Delete the states that the plan's runs published, once none of them needs one."""
    for prefixes in prefix_plans(plan).values():
        for prefix in prefixes.publishes:
            log.debug("removing the published state %s", prefix.folder(root))
            shutil.rmtree(prefix.folder(root), ignore_errors=True)


def branch_steps(run: RunSpec) -> Iterator[int]:
    """Steps after which other runs may branch off: ends of stages and of stable phases."""
    before = 0
    for stage in run.stages:
        stable = stable_steps(run.training.schedule, stage.steps)
        if stable:
            yield before + stable
        before += stage.steps
        if before < run.steps and stable != stage.steps:
            yield before


def has_prefix(run: RunSpec, prefix: Prefix) -> bool:
    """Whether the run passes through the state at the end of this prefix."""
    return prefix.step < run.steps and prefix_key(run, prefix.step) == prefix.key


def prefix_at(run: RunSpec, share: float) -> Prefix:
    """The run's prefix up to a share of its steps, in (0, 1]."""
    step = run.step_at(share)
    return Prefix(prefix_key(run, step), step)


def prefix_key(run: RunSpec, step: int) -> str:
    """SHA-256 (hex) of all that decides the training state after `step` steps."""
    training = run.training.model_dump(mode="json", exclude={"schedule"})
    content = {
        "format": FORMAT,
        "seed": run.seed,
        "data": run.data.identity(),
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
        steps = min(left, stage.steps)
        rates = _rates_until(run.training.schedule, stage, steps)
        # What of model and objective decides the state at the end of the stage.
        deciding = definition_of(run.family).deciding(run.model, run.objective, stage.name)
        yield {"stage": stage.name, "steps": steps, "rates": rates, **deciding}
        left -= steps


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
