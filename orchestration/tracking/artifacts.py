"""Files of a study's or sweep's own run in MLflow: its report, plan and records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cola.errors import TrackingError
from cola.records import Kind, Tag
from cola.spec.address import Address, remove_quoted_folder
from orchestration.tracking.mlflow_client import (
    check_answers,
    client_errors,
    client_of,
    failure_reason,
)
from orchestration.tracking.pages import runs_link


class StudyArtifacts:
    """The files of one study. All methods raise TrackingError where MLflow fails or refuses."""

    def __init__(self, address: Address, study: str) -> None:
        """Find the study's run.

        Raises:
            SpecError: for an address that is none of a tracking store.
            TrackingError: MLflow does not answer, or has no run of the study.
        """
        self.address, self.study = address, study
        check_answers(address)
        self._client: Any = client_of(address)
        self._experiment: str | None = None
        try:
            self._run = self._study_run()
            remove_quoted_folder(address.uri)
        except client_errors() as error:
            raise self._failure(error) from None

    def _study_run(self) -> str:
        experiment = self._client.get_experiment_by_name(self.study)
        runs = []
        if experiment is not None:
            self._experiment = str(experiment.experiment_id)
            query, order = f"tags.{Tag.KIND} = '{Kind.STUDY}'", ["attributes.start_time ASC"]
            runs = self._client.search_runs([experiment.experiment_id], query, order_by=order)
        if not runs:
            raise TrackingError(
                f"tracking.uri={self.address.shown}: MLflow has no run of {self.study} itself; "
                "check the address and the name"
            )
        return str(runs[0].info.run_id)

    def read(self, name: str, folder: Path) -> Path | None:
        """The file of this name, brought into an empty folder; None where there is none."""
        parent = name.rpartition("/")[0]
        try:
            listed = self._client.list_artifacts(self._run, parent or None)
            if name not in {item.path for item in listed}:
                return None
            return Path(self._client.download_artifacts(self._run, name, dst_path=str(folder)))
        except Exception as error:  # of the library that the server's artifacts are stored by
            raise self._failure(error) from None

    def write(self, path: Path, name: str) -> None:
        """Store a file under this name, whose last part is that of the path."""
        try:
            self._client.log_artifact(self._run, str(path), name.rpartition("/")[0] or None)
        except Exception as error:  # see above
            raise self._failure(error) from None

    def describe(self, summary: str) -> None:
        """Put a summary, as Markdown, on top of the pages of the study's run and its experiment."""
        link = runs_link(str(self._experiment))
        try:
            self._client.set_tag(self._run, Tag.NOTE, summary)
            self._client.set_experiment_tag(self._experiment, Tag.NOTE, f"{link}\n\n{summary}")
        except client_errors() as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> TrackingError:
        return TrackingError(
            f"tracking.uri={self.address.shown}: the files of {self.study} cannot be read or "
            f"written ({failure_reason(self.address, error)}); check the server and where it keeps "
            "artifacts"
        )
