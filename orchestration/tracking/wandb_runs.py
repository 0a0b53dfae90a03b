"""Runs in W&B (the only module that imports `wandb`), online or, with WANDB_MODE=offline, in files
that `wandb sync` sends later.

Account, project and address are those of W&B's own settings: `wandb login`, WANDB_ENTITY,
WANDB_PROJECT (by default the study's name), WANDB_BASE_URL.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cola.errors import SpecError, one_line
from orchestration.state.journal import Line
from orchestration.tracking.trackers import TrackedRun

ID_LENGTH = 32  # characters of a run's key; W&B takes 64
WITHOUT_NETWORK = ("offline", "disabled", "dryrun")


class WandbRuns:
    """The runs of a study in one project of W&B."""

    name = "wandb"

    def __init__(self, study: str, folder: Path) -> None:
        """`folder` gets W&B's own files.

        Raises:
            SpecError: there is no account to write to.
        """
        self.study, self.folder = study, folder
        if os.environ.get("WANDB_MODE", "online") not in WITHOUT_NETWORK:
            check_account()

    def open(self, run: TrackedRun) -> WandbRun:
        """The run with this key, created where there is none.

        Raises:
            Exception: of W&B, where it is not reached.
        """
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        opened = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or self.study,
            id=run.spec.run_key[:ID_LENGTH],
            name=run.name,
            group=run.tags.get("variant"),
            config={**run.spec.flat(), **{f"tag.{key}": v for key, v in run.tags.items()}},
            dir=str(self.folder),
            resume="allow",
            reinit="create_new",
            # What it would measure and read are the driver's machine and code, not the run's.
            settings=wandb.Settings(
                console="off", silent=True, x_disable_stats=True, disable_git=True,
                disable_code=True,
            ),
        )  # fmt: skip
        return WandbRun(opened)


class WandbRun:
    """One run: every number of the journal under its name in MLflow, over the optimiser step."""

    def __init__(self, run: Any) -> None:
        self._run = run
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    def write(self, lines: Sequence[Line]) -> None:
        """See `Sink.write`."""
        for line in lines:
            self._run.log({"step": line.step, **line.values})

    def close(self, state: str) -> None:
        """See `Sink.close`."""
        self._run.summary["status"] = state
        self._run.finish(exit_code=0 if state == "finished" else 1)


def check_account() -> None:
    """Refuse a machine on which W&B has no key of an account, and would ask for one.

    Raises:
        SpecError: with what to do.
    """
    import wandb

    remedy = "run `wandb login`, set WANDB_API_KEY or WANDB_MODE=offline, or leave wandb out"
    try:
        known = wandb.login(prompt=False)
    except Exception as error:  # W&B's own, of a key or an address that it refuses
        raise SpecError(f"tracking.also=wandb: {one_line(error)}; {remedy}") from None
    if not known:
        raise SpecError(f"tracking.also=wandb: this machine has no key of an account; {remedy}")
