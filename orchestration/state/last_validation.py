"""The last validation of a run, from its journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cola.families.registry import definition_of, measured_kind
from cola.records import Metric, NllKind
from cola.spec import LikelihoodSpec
from cola.study import RunSpec
from orchestration.state.journal import JournalReader, Line
from orchestration.state.paths import RunFolder


def last_validation(run_folder: Path) -> Line | None:
    """The journal's line of the latest step that was validated; None where none was.

    Raises:
        StorageError: the journal cannot be read.
    """
    lines = JournalReader(RunFolder(run_folder).journal).new_lines()
    evaluations = [line for line in lines if line.kind == "evaluation"]
    return max(evaluations, key=lambda line: line.step, default=None)


def exported_difference(run_folder: Path) -> float | None:
    """NLL (nats/token) of the exported model less that of the last validation; None where they
    were not compared.

    Raises:
        StorageError: the journal cannot be read.
    """
    name = Metric.EXPORTED_NLL_DIFFERENCE
    lines = JournalReader(RunFolder(run_folder).journal).new_lines()
    found = [line.values[name] for line in lines if name in line.values]
    return float(found[-1]) if found else None


def run_nll_kind(
    spec: RunSpec, values: Mapping[str, Any], likelihood: LikelihoodSpec | None = None
) -> NllKind | None:
    """What the NLL of a run's validation is, by the metrics of that validation; without one, what
    its settings ask for. `likelihood`: those of another measurement in place of the run's own.
    None: the model has no likelihood."""
    settings = likelihood or spec.evaluation.likelihood
    declared = definition_of(spec.family).nll_kind(spec.model, settings)
    return measured_kind(spec.family, declared, values)
