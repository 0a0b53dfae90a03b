"""Where the files of a study and of its runs are, and what they are called."""

from __future__ import annotations

import json
from pathlib import Path

from cola.spec import StudySpec


def study_folder(study: StudySpec) -> Path:
    """Where the study's own files lie: `<output>/studies/<name>`."""
    return output_root(study) / "studies" / study.name


def output_root(study: StudySpec) -> Path:
    """Absolute output folder: workers change their directory, so nothing relative may leave."""
    return Path(study.output).expanduser().resolve()


STOP_FILE = "stop"


def data_folder(folder: Path) -> Path:
    """Where the run's tokens and tokenizer lie."""
    return Path(json.loads((folder / "data.json").read_text())["folder"])


OUTCOME_FILE = "outcome.json"
