"""The studies and sweeps of an output folder: their runs, and what each keeps of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cola.errors import SpecError, StorageError, one_line
from cola.jsonl import read_lines
from cola.records import Artifact, SweepFile
from cola.spec import load_yaml
from cola.spec.resources import CheckpointSpec
from cola.study import StudySpec
from orchestration.checkpoint.manifest import is_safe
from orchestration.planning.decisions import saved_plan
from orchestration.state.paths import OutputFolder

ThingKind = Literal["study", "sweep"]


@dataclass(frozen=True)
class Thing:
    """A study or sweep by its kind and name."""

    kind: ThingKind
    name: str

    @property
    def folder(self) -> str:
        """Its own folder within an output folder."""
        return f"{'studies' if self.kind == 'study' else 'sweeps'}/{self.name}"

    def published(self, file: str) -> str:
        """Where a file is published, below the place of the thing's results."""
        return file.removeprefix(f"{self.folder}/")

    def is_mine(self, file: str) -> bool:
        """Whether a name from a list can be one of its results: no other place is written to."""
        return is_safe(file) and file.startswith((f"{self.folder}/", "runs/"))


def things_in(root: Path) -> Iterator[Thing]:
    """The studies and sweeps of an output folder."""
    output = OutputFolder(root)
    for kind, folder in (("study", output.studies), ("sweep", output.sweeps)):
        for path in sorted(folder.glob("*")):
            if (path / Artifact.STUDY).is_file():
                yield Thing("study" if kind == "study" else "sweep", path.name)


def run_keys(root: Path, thing: Thing) -> list[str]:
    """Keys of the runs that it has planned, each once.

    Raises:
        StorageError: its plan, or its log of trials, cannot be read.
    """
    folder = root / thing.folder
    if thing.kind == "study":
        keys = [str(slot["run_key"]) for slot in saved_plan(folder).values()]
    else:
        path = folder / SweepFile.TRIALS
        try:
            asked = list(read_lines(path)) if path.exists() else []
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be read ({error.strerror}); check its permissions and the disk"
            ) from None
        lists = [line.get("run_keys") for line in asked]
        keys = [str(key) for keys in lists if isinstance(keys, list) for key in keys]
    return [key for key in dict.fromkeys(keys) if is_safe(key) and "/" not in key]


def choices_by_key(root: Path) -> dict[str, list[CheckpointSpec]]:
    """What each study or sweep chose to keep of its runs' checkpoints, by run key.

    Raises:
        StorageError: files of one are damaged, so that what it keeps is not known.
    """
    found: dict[str, list[CheckpointSpec]] = {}
    for thing in things_in(root):
        path = root / thing.folder / Artifact.STUDY
        try:
            spec = StudySpec.parse(load_yaml(path), origin=str(path)).checkpoint
        except SpecError as error:
            raise StorageError(
                f"{path}: does not say what {thing.name} keeps ({one_line(error)}); `cola run` of "
                "it writes the file anew, or remove its folder"
            ) from None
        for key in run_keys(root, thing):
            found.setdefault(key, []).append(spec)
    return found
