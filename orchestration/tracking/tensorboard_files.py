"""Event files of TensorBoard, a folder a run: `tensorboard --logdir FOLDER` shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestration.state.journal import Line
from orchestration.tracking.trackers import TrackedRun


class TensorBoardFiles:
    """The runs of a study below one folder."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, run: TrackedRun) -> TensorBoardRun:
        """A new event file of the run; with those before it TensorBoard shows one curve.

        Raises:
            OSError: it cannot be written.
        """
        place = self.folder / re.sub(r"[^\w.+-]", "_", run.name)
        first = not place.exists()
        found = TensorBoardRun(place)
        if first:
            found.describe(run)
        return found


class TensorBoardRun:
    """An event file: every number of the journal under its name in MLflow."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        # Its names have whole seconds, in which another driver may have begun one.
        number = len(list(folder.glob("*"))) if folder.exists() else 0
        self._writer: Any = SummaryWriter(str(folder), filename_suffix=f".{number}")

    def describe(self, run: TrackedRun) -> None:
        """Add specification and tags as texts."""
        text = yaml.safe_dump(run.spec.model_dump(mode="json"))
        self._writer.add_text("specification", f"```yaml\n{text}```")
        self._writer.add_text("tags", f"```yaml\n{yaml.safe_dump(dict(run.tags))}```")

    def write(self, lines: Sequence[Line]) -> None:
        """See `Sink.write`."""
        for line in lines:
            for name, value in line.values.items():
                self._writer.add_scalar(name, value, line.step, walltime=line.time)
        self._writer.flush()

    def close(self, state: str) -> None:
        """See `Sink.close`."""
        self._writer.add_text("status", state)
        self._writer.close()
