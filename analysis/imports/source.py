"""A source of runs by its name: which reader takes it, or why none does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.imports.mlflow_runs import is_store, read_mlflow
from analysis.imports.rows import Source
from analysis.imports.tables import read_csv, read_json, read_parquet
from analysis.imports.tensorboard import MARK, event_files, read_tensorboard
from analysis.imports.wandb_offline import PATTERN, offline_files, read_offline
from analysis.tables.source import text_of
from cola.errors import SpecError

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
SQLITE = b"SQLite format 3"  # first bytes of a database


def read_source(place: str, wanted: Sequence[str], experiment: str | None) -> Source:
    """The runs of a file, a folder or an MLflow address; `wanted`: columns that it should have.

    Raises:
        SpecError: it is nothing that runs are read from.
        TrackingError: MLflow cannot be read.
    """
    if is_store(place):
        return read_mlflow(place, experiment)
    if experiment is not None:
        raise SpecError("--experiment: names one of MLflow; the source is a file, leave it out")
    path = Path(place).expanduser()
    if path.is_dir():
        return _folder(path, wanted)
    if not path.exists():
        raise SpecError(
            f"{path}: there is no such file; give a CSV, JSON lines, Parquet, a folder of "
            "TensorBoard's event files or of W&B's offline runs, or MLflow's address "
            "(sqlite:///FILE.db, http://...)"
        )
    if read_start(path) == SQLITE:
        raise SpecError(
            f"{path}: is an SQLite database; if it is MLflow's, give sqlite:///{path.resolve()}"
        )
    if path.match(PATTERN):
        return read_offline(path, wanted)
    if MARK in path.name:
        return read_tensorboard(path)
    if path.name.endswith(".parquet") or read_start(path)[:4] == b"PAR1":
        return read_parquet(path)
    if path.name.removesuffix(".gz").endswith(JSON_ENDINGS):
        return read_json(path, text_of(path))
    return read_csv(path, wanted)


def read_start(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        SpecError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE))
    except OSError as error:
        raise SpecError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from None


def _folder(path: Path, wanted: Sequence[str]) -> Source:
    """Runs of a folder: TensorBoard's, or W&B's offline ones.

    Raises:
        SpecError: it has neither, or both.
    """
    offline, events = offline_files(path), event_files(path)
    if offline and events:
        raise SpecError(
            f"{path}: holds W&B's offline runs ({offline[0]}) and TensorBoard's event files "
            f"({events[0]}), which may be the same runs; give the folder of one of them"
        )
    return read_offline(path, wanted) if offline else read_tensorboard(path)
