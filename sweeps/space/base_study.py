"""The base study of a sweep: the study of every point before the point's own values."""

from __future__ import annotations

import json
import logging
from importlib import resources
from pathlib import Path
from typing import Any

from cola.errors import SpecError
from cola.spec import load_yaml, with_values
from cola.spec.base import apply_overrides
from cola.spec.locations import located
from cola.study import StudySpec
from orchestration.planning.catalog import shipped_studies
from sweeps.space.spec import SweepSpec

log = logging.getLogger(__name__)


def base_path(study: str) -> Path:
    """The file of a base study: one of the sweeps' own, a shipped study, or the path itself.

    Raises:
        SpecError: there is no such file.
    """
    folder = Path(str(resources.files("sweeps") / "bases"))
    shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))} | shipped_studies()
    path = shipped.get(study, Path(study))
    if not path.exists():
        raise SpecError(
            f"study={study}: neither a file nor a shipped study; name a YAML file or one of "
            f"{', '.join(shipped)}"
        )
    return path


def written_study(sweep: SweepSpec, overrides: list[str]) -> StudySpec:
    """The base study with its paths as they were written: on another machine relative ones would be
    others.

    `overrides` are `key=value` settings of the study; they win over the sweep's `set`.

    Raises:
        SpecError: the study is not found or not valid.
    """
    if isinstance(sweep.study, str):
        path = base_path(sweep.study)
        log.info("sweep %s: base study from %s", sweep.name, path)
        values = load_yaml(path)
    else:
        values = dict(sweep.study)
    values = {"name": sweep.name, **values}
    values = apply_overrides(with_values(values, dict(sweep.set)), overrides)
    if sweep.seeds is not None:
        values["seeds"] = list(sweep.seeds)
    values["name"] = sweep.name
    study = StudySpec.parse(values, origin=f"sweep {sweep.name}")
    if study.tuning is not None:
        raise SpecError(
            f"tuning: a sweep's points are of one entry at one budget, and the record of "
            f"{study.tuning.sweep} is of a whole study; give rates by families.NAME.training or "
            f"families.NAME.rules (in sweep {sweep.name})"
        )
    return study


def base_values(sweep: SweepSpec, overrides: list[str]) -> dict[str, Any]:
    """The base study with all its defaults and absolute paths, as plain values.

    Raises:
        SpecError: see `written_study`.
    """
    return dict(json.loads(located(written_study(sweep, overrides)).model_dump_json()))
