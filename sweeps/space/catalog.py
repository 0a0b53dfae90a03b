"""Finds sweeps: those that ship with the product, and YAML files."""

from __future__ import annotations

import logging
from importlib import resources
from pathlib import Path
from typing import Any

from cola.errors import SpecError
from cola.records import SweepFile
from cola.spec import apply_overrides, load_yaml
from cola.study import StudySpec
from orchestration.planning.catalog import (
    lying_in,
    nearest,
    output_of,
    own_file,
    shipped_studies,
)
from orchestration.state.paths import OutputFolder, output_root
from sweeps.space.spec import SCALES, Scale, SweepSpec
from sweeps.space.typed_space import typed_sweep

log = logging.getLogger(__name__)


def shipped_sweeps() -> dict[str, Path]:
    """Files of the sweeps that ship with the product, by name."""
    folder = Path(str(resources.files("sweeps") / "studies"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def own_sweep(name: str, settings: list[str]) -> tuple[str, list[str]]:
    """A sweep and its settings as `load_sweep` takes them.

    A name that no sweep ships under and no file has may be that of a sweep of the output folder,
    which is `outputs` or the one that the settings name: the sweep as it was last run there.
    """
    root = output_of(settings)
    file = own_file(name, OutputFolder(root).sweeps / name / SweepFile.SPEC, shipped_sweeps())
    return (name, settings) if file is None else (str(file), lying_in(root, settings))


def load_sweep(
    name_or_file: str, scale: str | None, overrides: list[str] | None = None
) -> SweepSpec:
    """The sweep of this shipped name or YAML file, at a scale, with `key=value` overrides.

    Without `scale`, a sweep that has scales is taken at the first of them.

    Raises:
        SpecError: the sweep or the scale is unknown, or the sweep is invalid.
    """
    shipped = shipped_sweeps()
    path = shipped.get(name_or_file, Path(name_or_file))
    if not name_or_file.strip():
        raise SpecError("sweep: the name is empty; give a shipped sweep, a YAML file or a name")
    if name_or_file in shipped_studies():
        raise SpecError(
            f"sweep {name_or_file}: is a study, not a sweep; `cola plan {name_or_file}` plans it, "
            f"`cola run {name_or_file}` trains it, a sweep names it as its `study`"
        )
    if not path.exists():
        raise SpecError(
            f"sweep {name_or_file}: neither a file nor a shipped sweep nor one of the output folder"
            f"{nearest(name_or_file, shipped)}; name a YAML file, one that `cola ls` shows, or one "
            f"of {', '.join(shipped)}"
        )
    sweep = SweepSpec.parse(sweep_values(path), origin=str(path))
    chosen_scale = _scale_of(sweep, scale)
    log.info("sweep %s from %s at scale %s", sweep.name, path, chosen_scale or "none")
    scaled = {each: _at_scale(sweep, each, path) for each in (*sweep.scales, chosen_scale)}
    sweep = scaled[chosen_scale]
    if not overrides:
        return sweep
    values = apply_overrides(sweep.model_dump(mode="json"), overrides)
    return typed_sweep(SweepSpec.parse(values, origin=str(path)), str(path))


def sweep_values(path: Path) -> dict[str, Any]:
    """The sweep in a file: one that was written, or one that a sweep's folder keeps of itself."""
    values = load_yaml(path)
    saved = values.get("sweep")
    if not isinstance(saved, dict):
        return values
    return {**saved, "study": values.get("study"), "set": {}, "scales": {}}


def _at_scale(sweep: SweepSpec, scale: Scale | None, path: Path) -> SweepSpec:
    """The sweep at a scale, as a specification of its own.

    Raises:
        SpecError: what the scale changes makes it invalid.
    """
    origin = f"{path} at scale {scale}" if scale is not None else str(path)
    scaled = SweepSpec.parse(sweep.at(scale).model_dump(mode="json"), origin=origin)
    return typed_sweep(scaled, origin)


def _scale_of(sweep: SweepSpec, name: str | None) -> Scale | None:
    scales = [scale for scale in SCALES if scale in sweep.scales]
    if name is None:
        return scales[0] if scales else None
    for scale in scales:
        if scale == name:
            return scale
    if not scales:
        raise SpecError(f"--scale {name}: the sweep {sweep.name} has no scales; leave it out")
    raise SpecError(
        f"--scale {name}: unknown to the sweep {sweep.name}; choose one of {', '.join(scales)}"
    )


def sweep_folder(study: StudySpec) -> Path:
    """The folder of the sweep over this base study: `<output>/sweeps/<name>`."""
    return OutputFolder(output_root(study)).sweeps / study.name
