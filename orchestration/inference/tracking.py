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


def studies_with_run(run_key: str, root: Path) -> list[StudySpec]:
    """Studies of the output folder whose last plan has the run."""
    studies = []
    for folder in sorted(OutputFolder(root).studies.glob("*")):
        planned = {slot["run_key"] for slot in saved_plan(folder).values()}
        path = StudyFolder(folder).spec
        if run_key in planned and path.exists():
            study = StudySpec.parse(load_yaml(path), origin=str(path))
            # The folder may have been moved or copied since: its own store is meant.
            studies.append(study.model_copy(update={"output": str(root)}))
    return studies


def send_results(
    spec: RunSpec, metrics: Mapping[str, float], artifact: Path, *, root: Path
) -> dict[str, str | None]:
    """Add metrics (perhaps none) at the run's last step, and the file, in each study of the run.

    Returns, by study, why it failed, or None. The results are on disk already, so an MLflow that
    does not answer is not fatal.
    """
    outcome: dict[str, str | None] = {}
    for study in studies_with_run(spec.run_key, root):
        try:
            address = resolve_address(tracking_uri(study))
            check_answers(address)
        except ColaError as error:
            log.warning("%s: results not sent to MLflow: %s", study.name, error)
            outcome[study.name] = str(error)
            continue
        try:
            runs = MlflowRuns(address, study.name, OutputFolder(root).artifacts / study.name)
            run_id = runs.run_id_of(spec.run_key)
            if run_id is None:
                outcome[study.name] = "MLflow does not have the run; `cola run` sends it"
                continue
            if metrics:
                runs.add_metrics(run_id, metrics, step=spec.steps, time=time.time())
            runs.attach(run_id, artifact)
            outcome[study.name] = None
        except TrackingError as error:
            outcome[study.name] = str(error)
            log.warning("%s: results not sent to MLflow: %s", study.name, error)
        except client_errors() as error:
            outcome[study.name] = failure_reason(address, error)
            log.warning("%s: results not sent to MLflow: %s", study.name, outcome[study.name])
    return outcome
