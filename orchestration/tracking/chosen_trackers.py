"""The trackers beside MLflow that a study asks for (`tracking.also`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.state.paths import StudyFolder
from orchestration.tracking.tensorboard_files import TensorBoardFiles
from orchestration.tracking.trackers import Tracker, Trackers
from orchestration.tracking.wandb_runs import WandbRuns

# Their packages, and what installs them.
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
INSTALLED_BY = {"tensorboard": "tensorboardX", "wandb": "cola-scaling[wandb]"}


def trackers_of(study: StudySpec, name: str, folder: Path) -> Trackers:
    """The trackers of the study or sweep `name`, whose own folder is `folder`.

    Raises:
        SpecError: a tracker's package is not installed, or it has no account to write to.
    """
    place = StudyFolder(folder).trackers
    chosen: list[Tracker] = []
    for asked in study.tracking.also:
        if importlib.util.find_spec(PACKAGES[asked]) is None:
            raise SpecError(
                f"tracking.also={asked}: needs the Python package {PACKAGES[asked]}, which is not "
                f"installed; `pip install {INSTALLED_BY[asked]}`, or leave it out"
            )
        chosen.append(
            TensorBoardFiles(place / asked) if asked == "tensorboard" else WandbRuns(name, place)
        )
    return Trackers(chosen, place)
