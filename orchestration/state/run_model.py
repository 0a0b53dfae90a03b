"""A run's exported model: whether it can be used, and what helps where it cannot."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from cola.checksums import damage_in
from orchestration.state.paths import RunFolder

log = logging.getLogger(__name__)

EXPORT_AGAIN = (
    "`cola run` of its study trains it on from its newest checkpoint and exports it again "
    "(where no checkpoint is left, remove ledger.json beside it first)"
)


FETCH_MODELS = "its model was not fetched whole: `cola fetch --models` brings it"


def damage_of_model(run_folder: Path, *, contents: bool = True) -> str | None:
    """What is wrong with a run's exported model, as a predicate; None where nothing is.

    Without `contents` only names and sizes of its files are compared with those of its
    `checksums.json`, which takes no time. A model of a release without that file counts as whole.
    """
    model = RunFolder(run_folder).model
    try:
        there = any(model.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        there = False
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not there:
        return "is missing"
    damage = damage_in(model, contents=contents)
    return None if damage is None else f"is damaged ({damage})"


def model_problem(run_folder: Path, damage: str) -> str:
    """One line about the model of a finished run with that `damage`, with the remedy."""
    run = RunFolder(run_folder)
    remedy = FETCH_MODELS if run.fetched.exists() else EXPORT_AGAIN
    return f"{run.model}: the exported model of this finished run {damage}; {remedy}"


def set_aside_damaged(run_folder: Path) -> None:
    """Rename an exported model that is not as it was written; the attempt exports it anew.

    Raises:
        OSError: it cannot be renamed.
    """
    model = RunFolder(run_folder).model
    damage = damage_in(model) if model.is_dir() else None
    if damage is None:
        return
    aside = model.with_name(f"{model.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    model.rename(aside)
    log.warning("%s: %s; set aside as %s", model, damage, aside.name)
