"""MLflow experiment -> tidy frames (the only module that knows the schema of our runs).

Rules, each counted and noted in the report: a run that is not finished is listed and kept out of
fits; of runs with the same key the latest finished one counts; a run of another schema version is
an error, since its numbers may mean something else.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from analysis.plotting.variants import variants_of
from analysis.report.splits import Split, on_one_split, split_columns
from analysis.tracking.histories import joined_histories, read_histories
from analysis.tracking.store import mlflow_store
from cola.errors import SpecError, TrackingError
from cola.families.registry import measured_kind
from cola.records import (
    EXPORTED_NLL_TOLERANCE,
    NO_LIKELIHOOD,
    OWN_TEXT,
    SCHEMA_VERSION,
    Artifact,
    Kind,
    Metric,
    NllKind,
    Tag,
)
from cola.spec.address import Address, remove_quoted_folder, sqlite_file

log = logging.getLogger(__name__)

COMMIT_LETTERS = 12  # of a commit's hash, which is unique in any repository of this size
POINT_METRICS = {
    Metric.NLL: "nll",
    Metric.NLL_STANDARD_ERROR: "nll_standard_error",
    Metric.BITS_PER_BYTE: "bits_per_byte",
    Metric.TOKENS: "tokens",
    Metric.TRAIN_FLOPS_EXECUTED: "train_flops_executed",
    Metric.TRAIN_FLOPS_NOMINAL: "train_flops_nominal",
    Metric.ELAPSED_SECONDS: "elapsed_seconds",
}
CURVE_METRICS = {
    Metric.TRAIN_LOSS: "train_loss",
    Metric.TOKENS: "tokens",
    Metric.TRAIN_FLOPS_EXECUTED: "train_flops_executed",
    Metric.TOKENS_PER_SECOND: "tokens_per_second",
}


@dataclass(frozen=True)
class StudyFrames:
    """A study as tables: one row a run, an evaluation, a training log line, a diagnostic.

    `split`: what the final scores are of. `results` are of tasks, by run_id, of each curve's
    largest runs that were measured on further held-out texts.
    """

    runs: pd.DataFrame
    points: pd.DataFrame
    curves: pd.DataFrame
    diagnostics: pd.DataFrame = field(default_factory=pd.DataFrame)
    evaluations: pd.DataFrame = field(default_factory=pd.DataFrame)
    samples: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    split: Split = "validation"
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)  # last values, by run_id
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    # The last points of finished runs that have no NLL, for metrics that need none.
    unscored: pd.DataFrame = field(default_factory=pd.DataFrame)
    specification: str = ""  # the study's YAML, as its driver recorded it; empty where it has not

    @property
    def accuracies(self) -> pd.DataFrame:
        """Of the evaluations the accuracies (0 to 1): run, family, variant, budget, nll, task,
        accuracy."""
        if self.evaluations.empty:
            return self.evaluations
        mine = self.evaluations[self.evaluations["metric"] == "accuracy"]
        return mine.rename(columns={"value": "accuracy"}).drop(columns="metric")


def read_study(study: str, tracking_uri: str, cache: Path | None = None) -> StudyFrames:
    """All runs of a study's experiment; `cache` keeps the histories of finished runs.

    Raises:
        SpecError: when there is no such experiment, or it has no runs.
        TrackingError: when MLflow does not answer, or the runs have another schema.
    """
    with mlflow_store(tracking_uri) as (client, address):
        return _read(study, client, address, cache)


def _read(study: str, client: Any, address: Address, cache: Path | None) -> StudyFrames:
    file = sqlite_file(address.uri)
    experiment = client.get_experiment_by_name(study)
    remove_quoted_folder(address.uri)
    if experiment is None:
        known = ", ".join(e.name for e in client.search_experiments() if e.name != "Default")
        raise SpecError(f"study {study}: MLflow has no such experiment; it has: {known or 'none'}")
    if experiment.lifecycle_stage == "deleted":
        raise SpecError(
            f"study {study}: its experiment was deleted in MLflow; restore it (`mlflow experiments "
            f"restore --experiment-id {experiment.experiment_id}`)"
        )
    mlflow_runs = _training_runs(client, experiment.experiment_id)
    if not mlflow_runs:
        raise SpecError(f"study {study}: {_without_runs(client, experiment.experiment_id)}")
    _check_schema(study, mlflow_runs)
    runs, notes = _without_duplicates(pd.DataFrame([_run_row(run) for run in mlflow_runs]))
    log.info(
        "study %s: %d runs in %s, %d counted", study, len(mlflow_runs), address.shown, len(runs)
    )
    ids, finished = (list(frame["run_id"]) for frame in (runs, runs[runs["status"] == "finished"]))
    metrics = sorted(POINT_METRICS.keys() | CURVE_METRICS.keys())
    notes += _unscored_notes(runs)
    notes += _export_notes([run for run in mlflow_runs if run.info.run_id in set(finished)])
    histories = read_histories(
        client, address.uri, ids, finished=finished, metrics=metrics, cache=cache
    )
    points = joined_histories(histories, runs, POINT_METRICS, needed="nll")
    curves = joined_histories(histories, runs, CURVE_METRICS, needed="train_loss")
    if not points.empty:
        last = points.groupby("run_id")["step"].transform("max")
        points["is_final"] = (points["step"] == last) & (points["status"] == "finished")
    unscored = _unscored(histories, runs)
    runs, points, split, split_notes = on_one_split(runs, points)
    own = _own_artifacts(file, study)
    samples, environment = _artifacts(client, runs, own)
    recorded = client.search_runs([experiment.experiment_id], f"tags.{Tag.KIND} = '{Kind.STUDY}'")
    texts = [_artifact(client, run.info.run_id, Artifact.STUDY, own=own) for run in recorded[:1]]
    last = {run.info.run_id: dict(run.data.metrics) for run in mlflow_runs}
    tables = runs, points, curves, _diagnostics(last, runs), _evaluations(last, runs)
    return StudyFrames(
        *tables,
        samples,
        environment,
        notes=notes + split_notes,
        split=split,
        metrics=last,
        results=_results(client, runs, last, own=own),
        unscored=unscored,
        specification="".join(texts),
    )


def _training_runs(client: Any, experiment_id: str) -> list[Any]:
    """Without the study's own run and those of restarts, which hold no results."""
    mlflow_runs, token = [], None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        mlflow_runs += [run for run in page if run.data.tags.get(Tag.KIND, Kind.RUN) == Kind.RUN]
        token = page.token
        if not token:
            return mlflow_runs


def _without_runs(client: Any, experiment_id: str) -> str:
    """Why an experiment has no training runs, and what to do."""
    from mlflow.entities import ViewType

    deleted = client.search_runs([experiment_id], run_view_type=ViewType.DELETED_ONLY)
    if not any(run.data.tags.get(Tag.KIND, Kind.RUN) == Kind.RUN for run in deleted):
        return "its experiment holds no runs yet; run the study first"
    return (
        "its experiment's runs were deleted in MLflow; restore them (`mlflow runs restore`), or "
        "`cola run` the study: it sends the runs' journals again"
    )


def _check_schema(study: str, mlflow_runs: list[Any]) -> None:
    versions = {run.data.tags.get(Tag.SCHEMA_VERSION, "none") for run in mlflow_runs}
    if versions != {SCHEMA_VERSION}:
        raise TrackingError(
            f"study {study}: holds runs of schema version {', '.join(sorted(versions))}, this is "
            f"version {SCHEMA_VERSION}; report on them with the release that wrote them"
        )


def _run_row(run: Any) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "started": run.info.start_time,
        "ended": run.info.end_time,  # ms; None while it runs
        "family": tags[Tag.FAMILY],
        "variant": tags.get(Tag.VARIANT, tags[Tag.FAMILY]),
        "run_key": tags[Tag.RUN_KEY],
        "rung": int(tags[Tag.RUNG]),
        "budget": float(tags[Tag.BUDGET]),
        "unit": tags.get(Tag.BUDGET_UNIT, "flops"),
        "amount": float(tags.get(Tag.BUDGET_AMOUNT, tags[Tag.BUDGET])),
        "seed": int(tags[Tag.SEED]),
        "status": tags[Tag.STATUS],
        "status_reason": tags.get(Tag.STATUS_REASON, ""),
        "nll_kind": measured_kind(tags[Tag.FAMILY], cast(NllKind, tags[Tag.NLL_KIND]), metrics),
        "compute": tags[Tag.COMPUTE],
        "core_parameters": int(tags[Tag.CORE_PARAMETERS]),
        "embedding_parameters": int(tags[Tag.EMBEDDING_PARAMETERS]),
        "head_parameters": float(tags.get(Tag.HEAD_PARAMETERS, "nan")),
        "total_parameters": int(tags[Tag.TOTAL_PARAMETERS]),
        "attempts": int(tags.get(Tag.ATTEMPTS, "0")),
        "retry": int(tags.get(Tag.RETRY, "0")),
        "data_order": json.loads(tags.get(Tag.DATA_ORDER, "{}")),
        "training": {k: v for k, v in run.data.params.items() if k.startswith("training.")},
        "software": _software(tags),
        **{name: metrics.get(key) for key, name in POINT_METRICS.items()},
        "steps": sum(_stage_steps(run)),
        "stage_steps": _stage_steps(run),
        "stages": len(_stage_steps(run)),
        "stage": run.data.params.get("stages.0.name", ""),
        **split_columns(metrics),
    }


def _software(tags: Mapping[str, str]) -> str | None:
    """Version and commit of the code, shortened; None of runs that do not record them."""
    source, commit = tags.get(Tag.SOURCE), tags.get(Tag.COMMIT, "")
    short = commit[:COMMIT_LETTERS] + (", changed" if commit.endswith("-dirty") else "")
    return f"{source} (commit {short})" if source and commit else source


def _stage_steps(run: Any) -> list[int]:
    params = sorted(run.data.params.items())
    return [int(v) for k, v in params if k.startswith("stages.") and "steps" in k]


def _without_duplicates(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Of each run key the latest finished run, or the latest where none is finished."""
    runs = runs.assign(done=runs["status"] == "finished").sort_values(["done", "started"])
    kept = runs.drop_duplicates("run_key", keep="last").drop(columns="done")
    notes = []
    if len(kept) < len(runs):
        notes.append(
            f"{len(runs) - len(kept)} duplicated runs (same specification) were left out; of each "
            "the latest finished one counts"
        )
    unfinished = kept[kept["status"] != "finished"]
    for status, group in unfinished.groupby("status"):
        names = ", ".join(sorted(group["name"]))
        notes.append(f"{len(group)} runs are {status} and kept out of the fits: {names}")
    curves = list(variants_of(kept))
    kept = kept.assign(_curve=kept["variant"].map(curves.index))
    order = ["amount", "_curve", "rung", "seed"]
    return kept.sort_values(order).drop(columns="_curve").reset_index(drop=True), notes


def _unscored(histories: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """See `StudyFrames.unscored`."""
    mine = runs[(runs["nll_kind"] == NO_LIKELIHOOD) & (runs["status"] == "finished")]
    if mine.empty:
        return pd.DataFrame()
    points = joined_histories(histories, mine, POINT_METRICS, needed="train_flops_executed")
    return points.groupby("run_id").tail(1).assign(is_final=True, split="validation")


def _unscored_notes(runs: pd.DataFrame) -> list[str]:
    """Which curves have no likelihood, and so no place in tables and figures of one."""
    names = list(variants_of(runs[runs["nll_kind"] == NO_LIKELIHOOD]))
    if not names:
        return []
    return [
        f"without a likelihood, and so in no table or figure of NLL: {', '.join(names)}; `cola "
        "report STUDY --metric brierlm` compares what they generate, where the study has the task "
        "predictive"
    ]


def _export_notes(finished: list[Any]) -> list[str]:
    """Which runs' exported models are not, or not known to be, the validated ones."""
    unchecked, differing = [], []
    for run in finished:
        difference = run.data.metrics.get(Metric.EXPORTED_NLL_DIFFERENCE)
        if difference is not None and abs(difference) > EXPORTED_NLL_TOLERANCE:
            differing.append(f"{run.info.run_name} ({difference:+.4f})")
        averaged = run.data.params.get("training.ema_decay", "None") != "None"
        if difference is None and averaged:
            unchecked.append(run.info.run_name)
    notes = []
    if differing:
        notes.append(
            "exported models whose validation NLL differs from the recorded one (nats a token), so "
            f"that their tasks and samples are of other weights: {', '.join(sorted(differing))}"
        )
    if unchecked:
        notes.append(
            "runs with training.ema_decay whose exported model was not compared with the validated "
            "one; tasks and samples may be of the last weights, not of their average: "
            + ", ".join(sorted(unchecked))
        )
    return notes


def _diagnostics(metrics: dict[str, dict[str, float]], runs: pd.DataFrame) -> pd.DataFrame:
    """Measurements of finished models: run, family, variant, budget, diagnostic (its name),
    value."""
    prefix = Metric.diagnostic("")
    rows = [
        {
            "run": run["name"],
            "family": run["family"],
            "variant": run["variant"],
            "budget": run["budget"],
            "diagnostic": key.removeprefix(prefix),
            "value": value,
        }
        for _, run in runs.iterrows()
        for key, value in sorted(metrics[run["run_id"]].items())
        if key.startswith(prefix)
    ]
    columns = ["run", "family", "variant", "budget", "diagnostic", "value"]
    return pd.DataFrame(rows, columns=columns)


def _evaluations(metrics: dict[str, dict[str, float]], runs: pd.DataFrame) -> pd.DataFrame:
    """Measurements of finished models on tasks: run, family, variant, budget, nll, task, metric,
    value."""
    about = ["name", "family", "variant", "budget", "nll", "nll_kind"]
    rows = [
        {**run[about], "task": named[0], "metric": named[1], "value": value}
        for _, run in runs[runs["status"] == "finished"].iterrows()
        for key, value in sorted(metrics[run["run_id"]].items())
        if (named := Metric.task_and_name(key)) is not None
    ]
    return pd.DataFrame(rows, columns=[*about, "task", "metric", "value"])


def _artifacts(
    client: Any, runs: pd.DataFrame, own: Path | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Samples of each curve's largest finished run, and the environment of one run."""
    samples: list[dict[str, Any]] = []
    environment: dict[str, Any] = {}
    finished = runs[runs["status"] == "finished"].sort_values("budget")
    for _, run in finished.drop_duplicates("variant", keep="last").iterrows():
        text = _artifact(client, run["run_id"], Artifact.SAMPLES, own=own)
        about = {"run": run["name"], "variant": run["variant"]}
        # Not splitlines(): JSON texts may hold other line separators.
        samples += [json.loads(line) | about for line in text.split("\n") if line.strip()]
        if not environment:
            text = _artifact(client, run["run_id"], Artifact.ENVIRONMENT, own=own)
            environment = json.loads(text) if text else {}
    return samples, environment


def _results(
    client: Any, runs: pd.DataFrame, metrics: dict[str, dict[str, float]], *, own: Path | None
) -> dict[str, list[dict[str, Any]]]:
    """See `StudyFrames.results`."""
    known = Metric.held_out(OWN_TEXT, "likelihood", "bits_per_byte")
    measured = [known in metrics[run] for run in runs["run_id"]]
    chosen = runs[(runs["status"] == "finished") & np.array(measured, dtype=bool)]
    largest = chosen[chosen["budget"] == chosen.groupby("variant")["budget"].transform("max")]
    texts = {
        str(run): _artifact(client, run, Artifact.EVALUATION, own=own) for run in largest["run_id"]
    }
    return {run: json.loads(text) for run, text in texts.items() if text}


def _own_artifacts(store: Path | None, study: str) -> Path | None:
    """The folder of the experiment's artifacts beside a SQLite store, if there is one.

    The database names their place when they were written, which is another one once the output
    folder is moved or copied.
    """
    folder = None if store is None else store.parent / Artifact.FOLDER / study
    return folder if folder is not None and folder.is_dir() else None


def _artifact(client: Any, run_id: str, name: str, *, own: Path | None) -> str:
    """The text of a run's file; empty where it has none."""
    if own is not None and (own / run_id).is_dir():
        path = own / run_id / "artifacts" / name
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    if name not in {item.path for item in client.list_artifacts(run_id)}:
        return ""
    with tempfile.TemporaryDirectory(prefix="cola-report-") as folder:
        path = Path(client.download_artifacts(run_id, name, dst_path=folder))
        return path.read_text(encoding="utf-8")
