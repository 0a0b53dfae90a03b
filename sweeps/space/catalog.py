"""Finding sweeps: those that ship with the product, and files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cola.errors import SpecError
from cola.spec import apply_overrides, load_yaml
from cola.study import StudySpec
from orchestration.state.paths import OutputFolder, output_root
from sweeps.space.spec import SCALES, Scale, SweepSpec


def shipped_sweeps() -> dict[str, Path]:
    """Sweeps that come with the product, by name."""
    folder = Path(str(resources.files("sweeps") / "studies"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_sweep(
    name_or_file: str, scale: str | None, overrides: list[str] | None = None
) -> SweepSpec:
    """A sweep by shipped name or YAML file, at a scale, with `key=value` settings of its own keys.

    A sweep with scales is taken at the first of them unless one is asked for.

    Raises:
        SpecError: for an unknown sweep or scale, and for anything invalid in it.
    """
    shipped = shipped_sweeps()
    path = shipped.get(name_or_file, Path(name_or_file))
    if not path.exists():
        raise SpecError(
            f"sweep {name_or_file}: neither a file nor a shipped sweep; "
            f"shipped: {', '.join(shipped)}"
        )
    sweep = SweepSpec.parse(load_yaml(path), origin=str(path))
    sweep = sweep.at(_chosen(sweep, scale))
    if not overrides:
        return sweep
    values = apply_overrides(sweep.model_dump(mode="json"), overrides)
    return SweepSpec.parse(values, origin=str(path))


def _chosen(sweep: SweepSpec, scale: str | None) -> Scale | None:
    known = [name for name in SCALES if name in sweep.scales]
    if scale is None:
        scale = known[0] if known else None
    elif scale not in known:
        there = ", ".join(known) or "none"
        raise SpecError(f"--scale {scale}: the sweep {sweep.name} has these scales: {there}")
    return next((name for name in SCALES if name == scale), None)  # type: ignore[return-value]


def sweep_folder(study: StudySpec) -> Path:
    """Where the files of a sweep over this base study lie: `<output>/sweeps/<name>`."""
    return OutputFolder(output_root(study)).sweeps / study.name
