"""From a point of a sweep's space to its training runs, or to the reason why it has none."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cola.data.fingerprint import source_fingerprint
from cola.errors import SpecError
from cola.families.registry import names
from cola.records import TrialRequested, TrialSegment
from cola.spec import canonical_json, check_path, with_values
from cola.spec.locations import located
from cola.study import StudySpec
from cola.study.run import EvaluationSpec
from orchestration.planning.plan import PlannedRun, plan_study
from sweeps.space.arms import Arm
from sweeps.space.base_study import base_values
from sweeps.space.domains import Space, contains
from sweeps.space.entries import (
    alone,
    at_rung,
    is_training,
    own_settings,
    study_settings,
    without_rules_of,
)
from sweeps.space.metrics import check_ranked, check_tasks
from sweeps.space.samplers import is_inference
from sweeps.space.space import Point, optuna_parameters
from sweeps.space.spec import SweepSpec
from sweeps.space.typed_space import typed_sweep

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlannedPoint:
    """A feasible point with its training runs, one for each seed.

    `evaluation` holds the point's settings where finished models are measured once more with them.
    Points of equal `identity` have the same runs and the same measurements.
    """

    arm: str
    point: Point
    study: StudySpec
    fingerprint: str  # of the study's corpus
    runs: tuple[PlannedRun, ...]
    evaluation: EvaluationSpec | None
    identity: str

    @property
    def flops(self) -> float:
        """Executed training FLOPs of all runs."""
        return sum(run.train_flops("executed") for run in self.runs)


def segment_identity(planned: PlannedPoint, segment: TrialSegment | None) -> str:
    """The identity of a trial that trains the point's runs whole, or a segment of them."""
    return planned.identity if segment is None else f"{planned.identity}@{segment.until:g}"


def trial_request(
    planned: PlannedPoint, trial: int, segment: TrialSegment | None
) -> TrialRequested:
    """The log's record of a point that becomes the trial of this number now."""
    return TrialRequested(
        trial=trial,
        arm=planned.arm,
        point=planned.point,
        identity=segment_identity(planned, segment),
        run_keys=[run.key for run in planned.runs],
        leg=segment,
        time=time.time(),
    )


class PointPlanner:
    """Plans the runs of a sweep's points, each point once."""

    def __init__(self, sweep: SweepSpec, overrides: list[str]) -> None:
        """`overrides` are `key=value` settings of the base study, as `--set` takes them.

        Raises:
            SpecError: the base study, a key of the space or an arm is invalid.
        """
        self.sweep = sweep = typed_sweep(sweep.at_rungs(), f"sweep {sweep.name}")
        self._base = base_values(sweep, overrides)
        self._arm_bases: dict[str, dict[str, Any]] = {}
        self._fingerprints: dict[str, str] = {}
        self._plans: dict[str, PlannedPoint | SpecError] = {}
        self._measures = any(goal.name.startswith("continuation/") for goal in sweep.metrics)
        self.base = StudySpec.parse(self._base, origin=f"the base study of {sweep.name}")
        self._check_keys(overrides)
        for arm in self.arms():
            self._check_arm(arm)

    def arms(self) -> list[str]:
        """Names of the arms; one empty name where the sweep has none."""
        return list(self.sweep.spaces())

    def plan(self, arm: str, point: Point) -> PlannedPoint:
        """The point with its runs.

        Raises:
            SpecError: no study can have this point.
        """
        key = f"{arm} {canonical_json(point)}"
        if key not in self._plans:
            try:
                self._plans[key] = self._planned(arm, point)
            except SpecError as error:
                # Without where it was written: that is the same for every point.
                self._plans[key] = SpecError(str(error).partition(" (in ")[0])
                log.debug("infeasible: %s %s: %s", arm, point, error)
        plan = self._plans[key]
        if isinstance(plan, SpecError):
            raise plan
        return plan

    def own_point(self, arm: str) -> Point:
        """What the base study has of the arm's keys, of those whose domain has that value."""
        try:
            planned = self.plan(arm, {})
        except SpecError:  # it may need keys of the space
            return {}
        space = {k: d for k, d in self.sweep.spaces()[arm].items() if d.when is None}
        values = study_settings(planned.study, planned.runs[0].spec.training, space)
        return {key: value for key, value in values.items() if contains(space[key], value)}

    def study_values(
        self, arm: str, point: Mapping[str, Any], *, inference: bool = True
    ) -> dict[str, Any]:
        """The point's study as plain values.

        `inference=False` leaves out the point's keys that affect only generation or likelihood.
        """
        entry, values = self._arm(arm).entry, self._base_of(arm)
        if entry is not None:
            point = own_settings(entry, point)
            values = without_rules_of(values, entry, point)
        if not inference:
            point = {key: value for key, value in point.items() if not is_inference(key)}
        return with_values(values, point)

    def settings(self, arm: str, point: Mapping[str, Any]) -> dict[str, Any]:
        """The keys in which the point's study differs from the sweep's base study."""
        own = self._arm(arm)
        settings = {**own.set, **point}
        return settings if own.entry is None else own_settings(own.entry, settings)

    def parameters(self, arm: str, point: Point) -> dict[str, Any]:
        """The point as Optuna's parameters."""
        return optuna_parameters(self.sweep.spaces()[arm], point)

    def _arm(self, arm: str) -> Arm:
        return self.sweep.arms.get(arm, Arm())

    def _base_of(self, arm: str) -> dict[str, Any]:
        """The arm's study before a point's own values.

        Raises:
            SpecError: the base study has no such entry, or no such rung.
        """
        if arm not in self._arm_bases:
            own, where = self._arm(arm), f"arms.{arm}"
            training = {k: v for k, v in own.set.items() if own.entry and is_training(k)}
            values = with_values(
                self._base, {k: v for k, v in own.set.items() if k not in training}
            )
            if own.entry is not None:
                values = alone(values, own.entry, f"{where}.entry")
                values = with_values(values, own_settings(own.entry, training))
            if own.rung is not None:
                values = at_rung(values, own.rung, f"{where}.rung")
            self._arm_bases[arm] = values
        return self._arm_bases[arm]

    def _planned(self, arm: str, point: Point) -> PlannedPoint:
        study = located(StudySpec.parse(self.study_values(arm, point)))
        check_comparable(study, "a point", self.sweep.name)
        check_ranked((goal.name for goal in self.sweep.metrics), study)
        trained = study
        has_inference = any(is_inference(key) for key in point)
        if has_inference:
            trained = located(StudySpec.parse(self.study_values(arm, point, inference=False)))
        fingerprint = self.fingerprint(trained)
        runs = tuple(plan_study(trained, fingerprint))
        evaluation = study.evaluation if has_inference or self._measures else None
        content = [run.key for run in runs]
        if evaluation is not None:
            content.append(evaluation.canonical_json())
        return PlannedPoint(
            arm=arm,
            point=point,
            study=trained,
            fingerprint=fingerprint,
            runs=runs,
            evaluation=evaluation,
            identity=hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16],
        )

    def fingerprint(self, study: StudySpec) -> str:
        """The fingerprint of the study's corpus, computed once.

        Raises:
            SpecError: files are missing.
        """
        key = study.data.canonical_json()
        if key not in self._fingerprints:
            self._fingerprints[key] = source_fingerprint(study.data)
        return self._fingerprints[key]

    def _check_keys(self, overrides: list[str]) -> None:
        origin = f"sweep {self.sweep.name}"
        spaces = self.sweep.spaces()
        for name, space in spaces.items():
            for key in self._arm(name).set:
                check_path(StudySpec, key, origin)
                check_has_effect(key, [space], f"arms.{name}.set", origin=origin)
            self._check_entries(name, space)
        for key in self.sweep.set:
            check_has_effect(key, spaces.values(), "set", origin=origin)
        for key in (given.partition("=")[0].strip() for given in overrides):
            check_has_effect(key, spaces.values(), "--set", origin=origin)

    def _check_entries(self, arm: str, keys: Iterable[str]) -> None:
        """Refuse keys of entries of `families` that the arm's study does not have."""
        entries = self._base_of(arm).get("families", {})
        prefixes = [f"families.{entry}" for entry in dict.fromkeys([*entries, *names()])]
        for key in keys:
            if key.startswith("families.") and not any(
                key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes
            ):
                raise SpecError(
                    f"{key}: the study has no such entry; families has {', '.join(entries)} "
                    f"(in sweep {self.sweep.name})"
                )

    def _check_arm(self, arm: str) -> None:
        """Refuse arms of several families or rungs: their metrics have no common mean."""
        try:
            study = StudySpec.parse(self._base_of(arm))
        except SpecError:
            return  # it may need keys of the space; each point is checked by itself
        where = f"arm {arm} of sweep {self.sweep.name}" if arm else f"sweep {self.sweep.name}"
        check_tasks((goal.name for goal in self.sweep.metrics), study.evaluation.tasks, where)
        check_comparable(study, f"arms.{arm}" if arm else "study", self.sweep.name)
        check_not_ruled(study, self.sweep.spaces()[arm], self.sweep.name)


def check_has_effect(key: str, spaces: Iterable[Space], where: str, *, origin: str) -> None:
    """Refuse a setting that every point of all these spaces replaces.

    Raises:
        SpecError: naming it, and the key of the space that replaces it.
    """
    replacing = ""
    for space in spaces:
        within = (k for k, d in space.items() if d.when is None and f"{key}.".startswith(f"{k}."))
        replacing = next(within, "")
        if not replacing:
            return
    raise SpecError(
        f"{where} {key}: has no effect, as the space has {replacing}; leave one of them out "
        f"(in {origin})"
    )


def check_not_ruled(study: StudySpec, space: Iterable[str], sweep: str) -> None:
    """Refuse keys of latents that a rule of the study replaces at every point.

    Raises:
        SpecError: naming the key and the rule.
    """
    for variant, settings in study.families.items():
        rules = study.rules_of(variant).latent
        for key in settings.latent_keys:
            path = f"objective.stage1.{key}" if key == "beta" else key
            if getattr(rules, key, None) is not None and f"families.{variant}.{path}" in space:
                raise SpecError(
                    f"space.families.{variant}.{path}: has no effect, as rules.latent.{key} sets "
                    f"it at every point; leave one of them out (in sweep {sweep})"
                )


def check_comparable(study: StudySpec, where: str, sweep: str) -> None:
    """Check that the runs of a trial are of one family at one budget.

    Raises:
        SpecError: their metrics have no common mean.
    """
    if len(study.families) > 1:
        raise SpecError(
            f"{where}: has {len(study.families)} entries in families ({', '.join(study.families)}),"
            f" whose metrics do not compare; name one, or make an arm of each (in sweep {sweep})"
        )
    rungs = max(len(study.rungs_of(variant)) for variant in study.families)
    if rungs > 1:
        raise SpecError(
            f"{where}: has {rungs} rungs, but a trial is one size at one budget; give "
            f"one size and budget in ladder or design (in sweep {sweep})"
        )
