"""The MLflow store of a study."""

from __future__ import annotations

from cola.spec.address import sqlite_uri
from cola.study import StudySpec
from orchestration.state.paths import OutputFolder, output_root


def tracking_uri(study: StudySpec) -> str:
    """Address of the MLflow store, or a reference to it; by default a SQLite file in the output
    folder."""
    return study.tracking.uri or sqlite_uri(OutputFolder(output_root(study)).mlflow)
