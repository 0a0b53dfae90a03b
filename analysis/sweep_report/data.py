"""A sweep's folder -> tidy frames: its trials, and their runs by seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from analysis.plotting.metric_names import metric_label, metric_words
from cola.errors import SpecError, StorageError, validation_problem
from cola.jsonl import read_lines
from cola.records import RATE_CHANGES, PointExcluded, SweepFile, TrialFinished, TrialRequested
from cola.spec import load_saved_yaml


@dataclass(frozen=True)
class Goal:
    """A metric of the sweep; `sign` (1 or -1) times the metric is minimised."""

    name: str
    sign: int

    @property
    def label(self) -> str:
        """For axes and heads, with its unit."""
        return metric_label(self.name)

    @property
    def words(self) -> str:
        """For sentences."""
        return metric_words(self.name)

    def ranked(self, trials: pd.DataFrame) -> pd.DataFrame:
        """Trials from the best to the worst; those without the metric last, as they are."""
        if self.name not in trials:
            return trials
        order = (self.sign * trials[self.name].astype(float)).sort_values(kind="stable").index
        return trials.loc[order]


@dataclass(frozen=True)
class ArmFrame:
    """One arm. `trials`: one row a trial that ended, with a column a key of the arm's space (None
    where it takes no part), `state`, `reason`, `collapsed`, the `course` of the first metric before
    the end and the metrics; in a population also `generation`, `member`, `parent`, `until` and the
    changes of the rate. `runs`: one row a run, with trial, seed, state and metrics. `requests`: of
    all trials, those that have not ended included.
    """

    name: str
    keys: list[str]
    trials: pd.DataFrame
    runs: pd.DataFrame
    excluded: Counter[str]
    requests: tuple[TrialRequested, ...] = ()

    @property
    def finished(self) -> pd.DataFrame:
        """Trials that have all of their seeds' results."""
        return self.trials[self.trials["state"] == "finished"]


@dataclass(frozen=True)
class SweepFrames:
    """A sweep as its log has it."""

    spec: dict[str, Any]
    study: dict[str, Any]
    goals: list[Goal]
    arms: list[ArmFrame]
    open_trials: int
    left_out: int = 0  # trials of the log outside of the space, which was edited after them


def read_sweep(folder: Path) -> SweepFrames:
    """Everything of a sweep.

    Raises:
        SpecError: where the folder holds no sweep, or one without an ended trial.
    """
    spec_file, log = folder / SweepFile.SPEC, folder / SweepFile.TRIALS
    if not (spec_file.exists() and log.exists()):
        raise SpecError(f"{folder}: holds no sweep yet; `cola sweep` makes one")
    content = load_saved_yaml(
        spec_file, "sweep", "metrics", what="sweep", command="`cola sweep` of the same sweep"
    )
    spec = content["sweep"]
    asked: dict[int, TrialRequested] = {}
    ended: dict[int, TrialFinished] = {}
    excluded: list[PointExcluded] = []
    try:
        for values in read_lines(log):
            match values.get("event"):
                case "asked":
                    request = TrialRequested.model_validate(values)
                    asked[request.trial] = request
                case "ended":
                    outcome = TrialFinished.model_validate(values)
                    ended[outcome.trial] = outcome
                case "excluded":
                    excluded.append(PointExcluded.model_validate(values))
    except ValidationError as error:
        raise StorageError(
            f"{log}: holds a line that is no record of a sweep ({validation_problem(error)}); move "
            "the sweep's folder away, or use the release that wrote it"
        ) from None
    # The driver's own verdict: an edited space no longer has these trials' points.
    left_out = {int(number) for number in content.get("left_out", {})} & asked.keys()
    ended = {number: trial for number, trial in ended.items() if number not in left_out}
    if not ended:
        raise SpecError(
            f"{folder}: no trial has ended yet, there is nothing to report; wait for one"
        )
    goals = [
        Goal(goal["name"], 1 if goal["direction"] == "minimize" else -1) for goal in spec["metrics"]
    ]
    arms = [
        arm_frame(spec, name, asked, ended=ended, excluded=excluded)
        for name in spec["arms"] or [""]
    ]
    waiting = len(asked) - len(ended) - len(left_out)
    return SweepFrames(spec, content["study"], goals, arms, waiting, left_out=len(left_out))


def arm_frame(
    spec: dict[str, Any],
    name: str,
    asked: dict[int, TrialRequested],
    *,
    ended: dict[int, TrialFinished],
    excluded: list[PointExcluded],
) -> ArmFrame:
    """The frames of one arm."""
    arm = spec["arms"].get(name, {})
    keys = [*spec["space"], *(key for key in arm.get("space", {}) if key not in spec["space"])]
    trials, runs = [], []
    for number, result in sorted(ended.items()):
        if asked[number].arm != name:
            continue
        point = {key: asked[number].point.get(key) for key in keys}
        leg = asked[number].leg
        part = leg.model_dump(include={"generation", "member", "parent", "until"}) if leg else {}
        trials.append(
            {
                "trial": number,
                **part,
                RATE_CHANGES: asked[number].point.get(RATE_CHANGES, []),
                "course": result.course,
                **point,
                "present": sorted(asked[number].point),
                "state": result.state,
                "reason": result.reason or "",
                "collapsed": result.stop_code == "collapsed",
                "wall_seconds": result.wall_seconds,
                "working_seconds": result.working_seconds,
                "training_seconds": result.training_seconds,
                "flops": result.flops,
                "shared_flops": result.shared_flops,
                **result.metrics,
            }
        )
        runs += [
            {"trial": number, "seed": run.seed, "state": run.state, **run.metrics}
            for run in result.runs
        ]
    counts = Counter(left_out.reason for left_out in excluded if left_out.arm == name)
    columns = ["trial", RATE_CHANGES, "course", *keys, "present", "state", "reason", "collapsed",
               "wall_seconds", "working_seconds", "training_seconds", "flops",
               "shared_flops"]  # fmt: skip
    table = pd.DataFrame(trials) if trials else pd.DataFrame(columns=columns)
    seeds = pd.DataFrame(runs) if runs else pd.DataFrame(columns=["trial", "seed", "state"])
    requests = tuple(request for request in asked.values() if request.arm == name)
    return ArmFrame(name, keys, table, seeds, counts, requests)


def short(key: str) -> str:
    """A key's last part."""
    return key.rsplit(".", 1)[-1]


def key_words(key: str) -> str:
    """A key for axes and titles."""
    return short(key).replace("_", " ")


def value_label(value: Any) -> str:
    """A value of a key, for people."""
    if isinstance(value, float):
        return "–" if pd.isna(value) else f"{value:.4g}"
    if value is None:
        return "–"
    if isinstance(value, dict) and "budget" in value:  # a rung
        size = value.get("core_parameters") or value.get("total_parameters") or value.get("row")
        return f"{value_label(value['budget'])}/{f'{size:.3g}' if isinstance(size, int) else size}"
    if isinstance(value, dict):
        if all(isinstance(entry, dict) and "family" in entry for entry in value.values()):
            return ", ".join(value)  # entries of a study, which have names
        return ", ".join(f"{short(k)} {value_label(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "; ".join(map(value_label, value))
    return str(value)


def point_label(arm: ArmFrame, row: pd.Series) -> str:
    """A trial's point, for people; a key set to None is shown as null."""
    settings = []
    for key in arm.keys:
        if key in row["present"]:
            label = value_label(row[key])
            settings.append(f"{short(key)} {'null' if label == '–' else label}")
    settings += [
        f"rate x {change['factor']:.3g} from {change['at']:.0%}" for change in row[RATE_CHANGES]
    ]
    return ", ".join(settings)


def seeds_table(arm: ArmFrame, goal: Goal) -> pd.DataFrame:
    """Finished trials x seeds of a metric, without trials or seeds that lack one."""
    runs = arm.runs
    if goal.name not in runs or arm.finished.empty:
        return pd.DataFrame()
    runs = runs[runs["trial"].isin(arm.finished["trial"])]
    return runs.pivot_table(index="trial", columns="seed", values=goal.name).dropna()
