"""Where the files of an output folder, a study and a run are (docs/outputs.md lists them all)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cola.errors import StorageError
from cola.files import read_json, write_atomically
from cola.records import Artifact
from cola.study import StudySpec

TRACKERS = "trackers"  # in a study's or sweep's folder
FETCHED = "fetched.json"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, `<output>/runs/<run key>`."""

    path: Path

    @property
    def spec(self) -> Path:
        """The resolved specification, from which the run's key follows."""
        return self.path / "spec.json"

    @property
    def data(self) -> Path:
        """Names the folder of the prepared corpus."""
        return self.path / "data.json"

    @property
    def ledger(self) -> Path:
        """State, attempts and lease of the run."""
        return self.path / "ledger.json"

    @property
    def ledger_lock(self) -> Path:
        """Lock of the ledger's file."""
        return self.path / "ledger.lock"

    @property
    def journal(self) -> Path:
        """Metrics and events of the run as JSON lines."""
        return self.path / "journal.jsonl"

    @property
    def outcome(self) -> Path:
        """How the last attempt's training ended; absent after a crash."""
        return self.path / "outcome.json"

    @property
    def stop(self) -> Path:
        """Asks the workers to save a checkpoint and stop."""
        return self.path / "stop"

    @property
    def heartbeats(self) -> Path:
        """Folder with one file a worker."""
        return self.path / "workers"

    @property
    def micro_batch(self) -> Path:
        """The micro-batch that a device's memory has left; absent where none was too small."""
        return self.path / "micro_batch.json"

    @property
    def ray(self) -> Path:
        """Ray Train's attempts and the training checkpoints, unless they have another storage."""
        return self.path / "ray"

    @property
    def model(self) -> Path:
        """The exported model, a Hugging Face folder; only of a finished run."""
        return self.path / "model"

    @property
    def fetched(self) -> Path:
        """Where the run was fetched from; only of one that was not trained in this folder."""
        return self.path / FETCHED

    @property
    def environment(self) -> Path:
        """Versions and hardware of the last attempt."""
        return self.path / Artifact.ENVIRONMENT

    @property
    def samples(self) -> Path:
        """Continuations by the finished model."""
        return self.path / Artifact.SAMPLES

    @property
    def answers(self) -> Path:
        """Folder with the finished model's answers to tasks, item by item."""
        return self.path / "evaluation"

    @property
    def evaluation(self) -> Path:
        """Results of all tasks of the finished model."""
        return self.path / Artifact.EVALUATION

    def write_data(self, folder: Path) -> None:
        """Record the folder of the prepared corpus, relative to the run's where both lie in one
        output folder: the output folder can then be moved and copied.

        Raises:
            OSError: the file cannot be written.
        """
        output = self.path.absolute().parent.parent
        inside = folder.absolute().is_relative_to(output)
        given = os.path.relpath(folder.absolute(), self.path.absolute()) if inside else str(folder)
        write_atomically(self.data, json.dumps({"folder": given}))

    def data_folder(self) -> Path:
        """Folder with the run's tokens and tokenizer, wherever the output folder lies.

        Raises:
            StorageError: it is gone, or the file that names it is missing or damaged.
        """
        remedy = (
            'write {"folder": "FOLDER"} into it, with the folder below cache/ of the output that '
            "holds the run's corpus"
        )
        name = read_json(self.data, remedy=remedy).get("folder")
        if not isinstance(name, str) or not name:
            raise StorageError(f"{self.data}: names no folder of prepared data; {remedy}")
        given = Path(name)
        # Its own output folder first: a copy must not read the original's.
        places = [OutputFolder(self.path.absolute().parent.parent).cache / given.name]
        places += [Path(os.path.normpath(self.path.absolute() / given)), self.path / given]
        found = next((place for place in places if place.is_dir()), None)
        if found is None:
            raise StorageError(
                f"run {self.path.name}: its prepared corpus {places[0]} is gone; `cola run` of its "
                "study prepares it again (`cola evaluate` also takes other text: --held-out FILE)"
            )
        return found

    def problem(self) -> str | None:
        """What keeps the run's files from being used, with its remedy; None where nothing does.

        Only kinds of files are looked at: what is in them is checked where they are read.
        """
        for path in (self.spec, self.data, self.ledger, self.journal, self.outcome, self.stop):
            if path.is_dir():
                return f"{path}: is a folder in place of a file; remove it"
        for path in (self.heartbeats, self.ray, self.model, self.answers):
            if path.exists() and not path.is_dir():
                return f"{path}: is a file in place of a folder; remove it"
        return None


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one study, `<output>/studies/<name>`."""

    path: Path

    @property
    def spec(self) -> Path:
        """The study as it was last run."""
        return self.path / Artifact.STUDY

    @property
    def plan(self) -> Path:
        """The runs that it planned: their names, keys and settings."""
        return self.path / Artifact.PLAN

    @property
    def events(self) -> Path:
        """Starts, ends, faults and retries as JSON lines."""
        return self.path / "events.jsonl"

    @property
    def report(self) -> Path:
        """The report: pages, figures and tables."""
        return self.path / "report"

    @property
    def report_page(self) -> Path:
        """The report's first page."""
        return self.report / "report.html"

    @property
    def trackers(self) -> Path:
        """Files of trackers beside MLflow, and what each has of the runs."""
        return self.path / TRACKERS

    @property
    def fetched(self) -> Path:
        """Where the folder was fetched from; only of one that `cola fetch` has made."""
        return self.path / FETCHED


@dataclass(frozen=True)
class OutputFolder:
    """The root of everything that is written, `output` of a study."""

    path: Path

    @property
    def runs(self) -> Path:
        """One folder a run, by its key: studies and sweeps share them."""
        return self.path / "runs"

    @property
    def studies(self) -> Path:
        """One folder a study, by its name."""
        return self.path / "studies"

    @property
    def sweeps(self) -> Path:
        """One folder a sweep, by its name."""
        return self.path / "sweeps"

    @property
    def cache(self) -> Path:
        """Prepared corpora, by their content."""
        return self.path / "cache"

    @property
    def prefixes(self) -> Path:
        """Training states that several runs start from."""
        return self.path / "prefixes"

    @property
    def answers(self) -> Path:
        """Answers and results of models that are no run's, one folder a model."""
        return self.path / "evaluation"

    @property
    def mlflow(self) -> Path:
        """The default MLflow store, a SQLite file."""
        return self.path / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts, one folder an experiment."""
        return self.path / Artifact.FOLDER

    @property
    def calibration(self) -> Path:
        """Training rates that `cola plan --calibrate` measured."""
        return self.path / "calibration.json"


def output_root(study: StudySpec) -> Path:
    """Absolute output folder: workers change their directory, so nothing relative may leave."""
    return Path(study.output).expanduser().resolve()


def study_folder(study: StudySpec) -> Path:
    """Where the study's own files are: `<output>/studies/<name>`."""
    return OutputFolder(output_root(study)).studies / study.name
