"""Which MLflow store a study writes to."""

from __future__ import annotations

from cola.study import StudySpec
from orchestration.state.paths import output_root


def tracking_uri(study: StudySpec) -> str:
    """Where MLflow is (or a reference to it): by default a SQLite file in the output folder."""
    return study.tracking.uri or f"sqlite:///{output_root(study) / 'mlflow.db'}"
