"""A study as a command names it -> where its runs are recorded, and its tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.imports.record import FILE, Imported, frames_of, read_import
from analysis.report.runs import StudyFrames, read_study
from cola.errors import SpecError
from cola.spec import load_saved_yaml, load_yaml
from cola.spec.address import sqlite_uri

CACHE = "report/.cache/histories.parquet"


@dataclass(frozen=True)
class StudySource:
    """A study by its name, its folder and its MLflow. `spec`: None where the output folder has
    none."""

    name: str
    folder: Path
    uri: str
    spec: dict[str, Any] | None

    imported: Imported | None = None

    def frames(self) -> StudyFrames:
        """Its runs as tables.

        Raises:
            SpecError: MLflow has no runs of it.
            TrackingError: MLflow cannot be read.
        """
        if self.imported is not None:
            return frames_of(self.imported)
        return read_study(self.name, self.uri, self.folder / CACHE)


def study_source(study: str, output: str | None, tracking_uri: str | None) -> StudySource:
    """Where a study is; `study`: its name, its YAML file, or its folder within an output folder.

    Raises:
        SpecError: there is no such study.
    """
    if tracking_uri is not None and not tracking_uri.strip():
        raise SpecError("--tracking-uri: is empty; give MLflow's address, or leave it out")
    name = study
    if study.endswith((".yaml", ".yml")):
        values = load_yaml(Path(study))
        name, output = str(values.get("name")), output or values.get("output")
    elif is_study_folder(Path(study)):
        place = Path(study).expanduser().resolve()
        name, output = place.name, str(place.parent.parent)
    root = Path(output or "outputs").expanduser().resolve()
    folder = root / "studies" / name
    run_here = (folder / "study.yaml").exists()
    imported = None if run_here or tracking_uri is not None else read_import(folder)
    if imported is not None:
        about = {"name": name, "description": f"Imported from {imported.kind}, {imported.source}."}
        return StudySource(name, folder, "", about, imported)
    spec = None
    if run_here:
        spec = load_saved_yaml(
            folder / "study.yaml",
            "tracking",
            "uri",
            what="study",
            command="`cola run` of the study",
        )
    elif tracking_uri is None:
        if (root / "sweeps" / name).is_dir():
            raise SpecError(
                f"study {name}: is a sweep of {root}; `cola sweep report {name}` writes its page"
            )
        raise SpecError(
            f"study {name}: {root} holds no such study; run it first, or give --output, or the "
            "MLflow that has its runs (--tracking-uri)"
        )
    own_uri = None if spec is None else spec["tracking"]["uri"]
    return StudySource(
        name, folder, tracking_uri or own_uri or sqlite_uri(root / "mlflow.db"), spec
    )


def is_study_folder(path: Path) -> bool:
    """Whether a path is a study's folder, of one that was run here or imported."""
    return any((path.expanduser() / file).is_file() for file in ("study.yaml", FILE))
