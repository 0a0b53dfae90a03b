"""The runs of a study by the plan in its folder: without the corpus, which may be elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cola.errors import StorageError
from cola.families.registry import definition_of
from cola.study import StudySpec
from orchestration.planning.catalog import load_run_spec
from orchestration.planning.decisions import PLAN_REMEDY, saved_plan
from orchestration.planning.plan import PlannedRun
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, StudyFolder, output_root


@dataclass(frozen=True)
class SavedRuns:
    """The runs of a saved plan that have begun, in its order, and the names of the others."""

    started: tuple[PlannedRun, ...]
    not_started: tuple[str, ...]


def saved_runs(study: StudySpec, study_folder: Path) -> SavedRuns:
    """The runs of the study's last plan, each with the specification in its own folder.

    Raises:
        StorageError: the plan or a run's specification is damaged.
        SpecError: a run's family is not installed.
    """
    ledger, started, waiting = Ledger(output_root(study)), [], []
    for slot, values in saved_plan(study_folder).items():
        folder = ledger.run_folder(values["run_key"])
        if RunFolder(folder).spec.exists():
            place = StudyFolder(study_folder).plan
            started.append(_run(study, folder, slot, name=values["name"], place=place,
                                retry=int(values.get("retry", 0))))  # fmt: skip
        else:
            waiting.append(str(values["name"]))
    return SavedRuns(tuple(started), tuple(waiting))


def _run(
    study: StudySpec, folder: Path, slot: str, *, name: str, place: Path, retry: int
) -> PlannedRun:
    variant, index, _ = slot.rsplit("/", 2)
    try:
        rung = study.rungs_of(variant)[int(index)]
    except (KeyError, IndexError, ValueError):
        raise StorageError(
            f"{place}: {slot} is no run of the study beside it; {PLAN_REMEDY}"
        ) from None
    spec = load_run_spec(folder)
    counts = definition_of(spec.family).parameter_counts(spec.model)
    resources = study.resources.at(rung.core_parameters or counts.core)
    return PlannedRun(
        spec=spec,
        variant=variant,
        rung=int(index),
        name=name,
        core_parameters=counts.core,
        embedding_parameters=counts.embedding,
        head_parameters=counts.head,
        total_parameters=counts.total,
        resources=resources,
        micro_batch_sequences=resources.micro_batch_sequences,
        unit=rung.unit,
        amount=rung.amount,
        retry=retry,
    )
