"""Sends the results of an evaluation to MLflow, to the run that was evaluated."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from cola.errors import ColaError, TrackingError
from cola.spec import load_yaml
from cola.spec.address import resolve_address
from cola.study import RunSpec, StudySpec
from orchestration.planning.decisions import saved_plan
from orchestration.state.paths import OutputFolder, StudyFolder
from orchestration.tracking.address import tracking_uri
from orchestration.tracking.mlflow_client import check_answers, client_errors, failure_reason
from orchestration.tracking.mlflow_runs import MlflowRuns

log = logging.getLogger(__name__)


def send_results(
    spec: RunSpec, metrics: Mapping[str, float], artifact: Path, *, root: Path
) -> dict[str, str | None]:
    """Add metrics (perhaps none) at the run's last step, and the file, in each study of the run.

    Returns, by study, why it failed, or None. The results are on disk already, so an MLflow that
    does not answer and a study whose files are damaged are not fatal.
    """
    outcome: dict[str, str | None] = {}
    for folder in sorted(OutputFolder(root).studies.glob("*")):
        try:
            study = study_with_run(folder, spec.run_key, root)
            if study is None:
                continue
            _send(study, spec, metrics, artifact=artifact, root=root)
            outcome[folder.name] = None
        except ColaError as error:
            outcome[folder.name] = str(error)
            log.warning("%s: results not sent to MLflow: %s", folder.name, error)
    return outcome


def study_with_run(folder: Path, run_key: str, root: Path) -> StudySpec | None:
    """The study of a folder whose last plan has the run; None where it has not.

    Raises:
        StorageError: its plan is damaged.
        SpecError: its specification is.
    """
    planned = {slot["run_key"] for slot in saved_plan(folder).values()}
    path = StudyFolder(folder).spec
    if run_key not in planned or not path.exists():
        return None
    study = StudySpec.parse(load_yaml(path), origin=str(path))
    # The folder may have been moved or copied since: its own store is meant.
    return study.model_copy(update={"output": str(root)})


def _send(
    study: StudySpec, spec: RunSpec, metrics: Mapping[str, float], *, artifact: Path, root: Path
) -> None:
    """Raises ColaError where MLflow does not take it."""
    address = resolve_address(tracking_uri(study))
    check_answers(address)
    try:
        runs = MlflowRuns(address, study.name, OutputFolder(root).artifacts / study.name)
        run_id = runs.run_id_of(spec.run_key)
        if run_id is None:
            raise TrackingError("MLflow does not have the run; `cola run` sends it")
        if metrics:
            runs.add_metrics(run_id, metrics, step=spec.steps, time=time.time())
        runs.attach(run_id, artifact)
    except client_errors() as error:
        raise TrackingError(failure_reason(address, error)) from None
