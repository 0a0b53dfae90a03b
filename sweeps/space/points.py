"""From a point of the space to its runs, or to the reason why no study can have it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cola.data.fingerprint import source_fingerprint
from cola.errors import SpecError
from cola.families.registry import names
from cola.records import TrialRequested, TrialSegment
from cola.spec import canonical_json, check_path, load_yaml, with_values
from cola.spec.base import apply_overrides
from cola.study import StudySpec
from cola.study.run import EvaluationSpec
from orchestration.planning.catalog import shipped_studies
from orchestration.planning.plan import PlannedRun, plan_study
from sweeps.space.space import Point, optuna_parameters
from sweeps.space.spec import Arm, SweepSpec, is_inference


@dataclass(frozen=True)
class PlannedPoint:
    """A point that can be carried out.

    `runs` are one a seed. `evaluation` is given where finished models are measured once more, with
    settings of the point. PointPlanner of equal `identity` are the same thing done.
    """

    arm: str
    point: Point
    study: StudySpec
    fingerprint: str
    runs: tuple[PlannedRun, ...]
    evaluation: EvaluationSpec | None
    identity: str

    @property
    def flops(self) -> float:
        """Executed training FLOPs of its runs."""
        return sum(run.train_flops("executed") for run in self.runs)


def segment_identity(candidate: PlannedPoint, leg: TrialSegment | None) -> str:
    """The identity of a candidate, or of a part of it."""
    return candidate.identity if leg is None else f"{candidate.identity}@{leg.until:g}"


def trial_request(candidate: PlannedPoint, trial: int, leg: TrialSegment | None) -> TrialRequested:
    """The log's record of a candidate that becomes a trial now."""
    return TrialRequested(
        trial=trial,
        arm=candidate.arm,
        point=candidate.point,
        identity=segment_identity(candidate, leg),
        run_keys=[run.key for run in candidate.runs],
        leg=leg,
        time=time.time(),
    )


class PointPlanner:
    """Makes candidates of a sweep's points."""

    def __init__(self, sweep: SweepSpec, overrides: list[str]) -> None:
        """`overrides` are settings of the base study, as `--set` takes them.

        Raises:
            SpecError: for a base study, a key or an arm that cannot be.
        """
        self.sweep = sweep
        self._base = base_values(sweep, overrides)
        self._fingerprints: dict[str, str] = {}
        self._known: dict[str, PlannedPoint | SpecError] = {}
        self._measures = any(goal.name.startswith("continuation/") for goal in sweep.metrics)
        self.base = StudySpec.parse(self._base, origin=f"the base study of {sweep.name}")
        self._check_keys()
        for arm in self.arms():
            self._check_arm(arm)

    def arms(self) -> list[str]:
        """Names of the arms; one without a name where the sweep has none."""
        return list(self.sweep.spaces())

    def of(self, arm: str, point: Point) -> PlannedPoint:
        """The point's runs.

        Raises:
            SpecError: when no study can have this point.
        """
        key = f"{arm} {canonical_json(point)}"
        if key not in self._known:
            try:
                self._known[key] = self._planned(arm, point)
            except SpecError as error:
                self._known[key] = SpecError(str(error).partition(" (in ")[0])
        found = self._known[key]
        if isinstance(found, SpecError):
            raise found
        return found

    def values(self, arm: str, point: Mapping[str, Any], inference: bool = True) -> dict[str, Any]:
        """The study of a point as plain values; without its `inference` keys on demand."""
        settings = {**self._arm(arm).set, **point}
        if not inference:
            settings = {key: value for key, value in settings.items() if not is_inference(key)}
        return with_values(self._base, settings)

    def parameters(self, arm: str, point: Point) -> dict[str, Any]:
        """The point in Optuna's own values."""
        return optuna_parameters(self.sweep.spaces()[arm], point)

    def _arm(self, arm: str) -> Arm:
        return self.sweep.arms.get(arm, Arm())

    def _planned(self, arm: str, point: Point) -> PlannedPoint:
        whole = StudySpec.parse(self.values(arm, point))
        trained = whole
        inference = {key: value for key, value in point.items() if is_inference(key)}
        if inference:
            trained = StudySpec.parse(self.values(arm, point, inference=False))
        fingerprint = self._fingerprint(trained)
        runs = tuple(plan_study(trained, fingerprint))
        evaluation = whole.evaluation if inference or self._measures else None
        content = [run.key for run in runs]
        if evaluation is not None:
            content.append(evaluation.canonical_json())
        identity = hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]
        return PlannedPoint(arm, point, trained, fingerprint, runs, evaluation, identity)

    def _fingerprint(self, study: StudySpec) -> str:
        key = study.data.canonical_json()
        if key not in self._fingerprints:
            self._fingerprints[key] = source_fingerprint(study.data)
        return self._fingerprints[key]

    def _check_keys(self) -> None:
        origin = f"sweep {self.sweep.name}"
        for name, space in self.sweep.spaces().items():
            for key in [*space, *self._arm(name).set]:
                check_path(StudySpec, key, origin)
            self._check_entries(name, space)
        for point in self.sweep.start:
            for key in point:
                check_path(StudySpec, key, origin)

    def _check_entries(self, arm: str, keys: Iterable[str]) -> None:
        """A key of an entry of `families` needs the entry."""
        there = with_values(self._base, self._arm(arm).set).get("families", {})
        known = [f"families.{entry}" for entry in dict.fromkeys([*there, *names()])]
        for key in keys:
            if key.startswith("families.") and not any(
                key == entry or key.startswith(f"{entry}.") for entry in known
            ):
                raise SpecError(
                    f"{key}: the study has no such entry; families has {', '.join(there)} "
                    f"(in sweep {self.sweep.name})"
                )

    def _check_arm(self, arm: str) -> None:
        """Metrics of different families or budgets have no common mean."""
        values = with_values(self._base, self._arm(arm).set)
        try:
            study = StudySpec.parse(values)
        except SpecError:
            return  # it may need keys of the space; each point is checked by itself
        where = f"arms.{arm}" if arm else "study"
        if len(study.families) > 1:
            raise SpecError(
                f"{where}: has {len(study.families)} entries in families, whose metrics do not "
                "compare; name one, or make an arm of each"
            )
        if len(study.rungs()) > 1:
            raise SpecError(
                f"{where}: has {len(study.rungs())} rungs; a trial is one size at one budget"
            )


def base_path(study: str) -> Path:
    """The file of a base study: of the sweeps' own, of a shipped study, or as named.

    Raises:
        SpecError: where there is none.
    """
    folder = Path(str(resources.files("sweeps") / "bases"))
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))} | shipped_studies()
    path = known.get(study, Path(study))
    if not path.exists():
        raise SpecError(
            f"study={study}: neither a file nor a shipped study; shipped: {', '.join(known)}"
        )
    return path


def base_values(sweep: SweepSpec, overrides: list[str]) -> dict[str, Any]:
    """The base study with all its defaults, as plain values.

    Raises:
        SpecError: for a study that is not found or not valid.
    """
    if isinstance(sweep.study, str):
        values = load_yaml(base_path(sweep.study))
    else:
        values = dict(sweep.study)
    values = {"name": sweep.name, **values}
    settings = dict(sweep.set)
    values = apply_overrides(with_values(values, settings), overrides)
    if sweep.seeds is not None:
        values["seeds"] = list(sweep.seeds)
    values["name"] = sweep.name
    study = StudySpec.parse(values, origin=f"sweep {sweep.name}")
    return dict(json.loads(study.model_dump_json()))
