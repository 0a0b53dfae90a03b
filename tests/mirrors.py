"""Drivers whose mirrors write into one MLflow at once, and what MLflow has of it in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy

from cola.records import Kind, Metric, Tag
from cola.spec.address import with_driver
from cola.study import RunSpec, StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.journal import JournalWriter
from orchestration.state.ledger import Ledger
from orchestration.tracking.mirror import Mirror, MirroredStudy, open_mirror
from orchestration.tracking.mlflow_runs import TrainingRun

Point = tuple[str, str, int, int, float]  # run key, metric, step, time in ms, value


def many_runs(tiny_study: dict[str, Any], count: int) -> list[RunSpec]:
    """Runs of one family that differ in their seed."""
    many = tiny_study | {"families": ["ar"], "seeds": list(range(count))}
    return [run.spec for run in plan_study(StudySpec.parse(many))]


class Drivers:
    """Drivers of one study, each with runs of its own, whose journals this process writes."""

    def __init__(self, uri: str, specs: list[RunSpec], drivers: int, folder: Path) -> None:
        self.specs, self.expected = specs, Counter[Point]()
        (folder / "study.yaml").write_text("name: many\n")
        self.ledger = Ledger(folder)
        self.journals = [JournalWriter(self.of(s) / "journal.jsonl") for s in specs]
        keys = [spec.run_key for spec in specs]
        self.mirrors: list[tuple[Mirror, list[RunSpec]]] = []
        for number in range(drivers):
            mirror = open_mirror(uri, "many", folder / "artifacts")
            mirror.start(MirroredStudy(folder, self.ledger, keys))
            mine = specs[number::drivers]
            for spec in mine:
                self.ledger.acquire(spec.run_key)
                tags = {Tag.STATUS: "running"}
                mirror.follow(spec.run_key[:8], spec, self.of(spec), tags=tags)
            self.mirrors.append((mirror, mine))

    def of(self, spec: RunSpec) -> Path:
        """The run's folder."""
        return self.ledger.run_folder(spec.run_key)

    def write(self, steps: Iterable[int]) -> None:
        """A line of two metrics for each run and step."""
        for step in steps:
            for spec, journal in zip(self.specs, self.journals, strict=True):
                values = {Metric.TRAIN_LOSS: 1 / step, Metric.TOKENS: 100.0 * step}
                journal.write("train", step, 1000.0 + step, values=values)
                stamp = 1000 * (1000 + step)
                self.expected.update((spec.run_key, k, step, stamp, v) for k, v in values.items())

    def sent(self) -> int:
        """Journal lines that MLflow has, by what the mirrors know."""
        runs = [run for mirror, _ in self.mirrors for run in list(mirror._runs.values())]
        return sum(run.target.sent for run in runs if isinstance(run.target, TrainingRun))

    def finish(self, patience_seconds: float) -> list[str]:
        """End all runs and send the rest; names of what was not sent whole."""
        for mirror, mine in self.mirrors:
            for spec in mine:
                self.ledger.close(spec.run_key, "finished")
                mirror.close_run(spec.run_key, "finished", {})
        late = [name for mirror, _ in self.mirrors for name in mirror.finish(patience_seconds)]
        for journal in self.journals:
            journal.close()
        return late


def stored_points(store: str) -> Counter[Point]:
    """How often the database has each point of the two metrics."""
    query = (
        "SELECT t.value, m.key, m.step, m.timestamp, m.value FROM metrics m JOIN tags t "
        "ON t.run_uuid = m.run_uuid AND t.key = :tag WHERE m.key IN (:loss, :tokens)"
    )
    names = {"tag": Tag.RUN_KEY, "loss": Metric.TRAIN_LOSS, "tokens": Metric.TOKENS}
    return Counter((a, b, int(c), int(d), float(e)) for a, b, c, d, e in rows(store, query, names))


def stored_runs(store: str) -> dict[tuple[str, str], int]:
    """Runs by kind and MLflow's status."""
    query = (
        "SELECT t.value, r.status, count(*) FROM runs r JOIN tags t "
        "ON t.run_uuid = r.run_uuid AND t.key = :tag GROUP BY t.value, r.status"
    )
    return {(kind, status): n for kind, status, n in rows(store, query, {"tag": Tag.KIND})}


def finished_runs(count: int) -> dict[tuple[str, str], int]:
    """What `stored_runs` finds of a study of so many runs that is done."""
    return {(Kind.STUDY, "FINISHED"): 1, (Kind.RUN, "FINISHED"): count}


def rows(store: str, query: str, names: dict[str, str]) -> list[tuple[object, ...]]:
    """Ask the database itself."""
    engine = sqlalchemy.create_engine(with_driver(store))
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(sqlalchemy.text(query), names)]
    engine.dispose()
    return found
