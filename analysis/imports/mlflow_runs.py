"""Runs of any MLflow experiment, whoever wrote them: tags, parameters and last metrics as cells."""

from __future__ import annotations

from analysis.imports.rows import Row, Source, flattened
from analysis.tracking.store import mlflow_store
from cola.errors import SpecError
from cola.records import Kind, Tag

FINISHED = "FINISHED"


def is_store(place: str) -> bool:
    """Whether a source's name is an address of MLflow, not a file."""
    return "://" in place


def read_mlflow(place: str, experiment: str | None) -> Source:
    """The finished training runs of an experiment.

    Columns are metrics, parameters and tags by their names; where two of them share one, the metric
    has it, then the parameter, and the other is `params.NAME` or `tags.NAME`.

    Raises:
        SpecError: there is no such experiment, or no run.
        TrackingError: MLflow cannot be read.
    """
    with mlflow_store(place) as (client, address):
        known = {e.name: e.experiment_id for e in client.search_experiments()}
        if experiment is None:
            others = [name for name in known if name != "Default"]
            if len(others) != 1:
                raise SpecError(
                    f"{address.shown}: name the experiment (--experiment); it has "
                    f"{', '.join(known) or 'none'}"
                )
            (experiment,) = others
        if experiment not in known:
            raise SpecError(
                f"--experiment {experiment}: {address.shown} has no such experiment; it has "
                f"{', '.join(known) or 'none'}"
            )
        found, token = [], None
        while True:
            page = client.search_runs([known[experiment]], max_results=1000, page_token=token)
            found += list(page)
            token = page.token
            if not token:
                break
        place = f"{address.shown}, experiment {experiment}"
    rows, left_out = [], dict[str, tuple[str, ...]]()
    for run in found:
        name = str(run.info.run_name or run.info.run_id)
        if run.data.tags.get(Tag.KIND, Kind.RUN) != Kind.RUN:
            continue
        if run.info.status != FINISHED:
            reason = f"its status is {run.info.status}, not {FINISHED}"
            left_out[reason] = (*left_out.get(reason, ()), f"run {name}")
            continue
        rows.append(Row(f"run {name}", name, _cells(run)))
    if not rows and not left_out:
        raise SpecError(f"{place}: holds no runs")
    notes = f"runs count where their status is {FINISHED}", "of every metric its last value counts"
    return Source("MLflow", place, tuple(rows), left_out, notes)


def _cells(run: object) -> dict[str, str]:
    data = run.data  # type: ignore[attr-defined]
    cells = dict(flattened(data.metrics))
    for kind, values in (("params", data.params), ("tags", data.tags)):
        for name, value in flattened(values):
            cells[f"{kind}.{name}" if name in cells else name] = value
    return cells
