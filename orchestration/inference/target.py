"""What `cola evaluate` evaluates: a finished run, or a folder with a model."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cola.data import PreparedData, TextTokenizer, open_prepared
from cola.data.tokenizer import TOKENIZER_FILE
from cola.errors import SpecError, StorageError
from cola.evaluation.models.evaluated_model import (
    EvaluatedModel,
    context_in,
    family_in,
    load_model,
    open_evaluated_model,
    tokenizer_in,
)
from cola.families.registry import family_of
from cola.study import EvaluationSpec, RunSpec
from orchestration.planning.catalog import find_run, load_run_spec
from orchestration.state.ledger import Ledger
from orchestration.state.paths import OutputFolder, RunFolder
from orchestration.state.run_model import EXPORT_AGAIN, damage_of_model, model_problem

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A model to evaluate; answers and results are written to `answers`.

    `run_folder` is None for a plain folder with a model; `context` is in tokens, None if unknown.
    """

    name: str
    family: str
    model_folder: Path
    run_folder: Path | None
    context: int | None
    answers: Path

    def open(self, device: torch.device | str = "cpu") -> EvaluatedModel:
        """The model on this device, with its tokenizer."""
        log.debug("opening the model in %s", self.model_folder)
        if self.run_folder is None:
            return open_evaluated_model(self.model_folder, self.context, device)
        return open_run_model(self.run_folder, self.family, self.context, device=device)

    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer.

        Raises:
            StorageError: it is gone.
        """
        if self.run_folder is None:
            return tokenizer_in(self.model_folder)
        return run_tokenizer(self.run_folder)

    def run_spec(self) -> RunSpec | None:
        """The run's specification; None for a plain folder."""
        return None if self.run_folder is None else load_run_spec(self.run_folder)

    def sizes(self) -> Any:
        """The model's specification; None where its family gives none of a plain folder."""
        spec = self.run_spec()
        return family_of(self.family).sizes_in(self.model_folder) if spec is None else spec.model

    def settings(self) -> EvaluationSpec:
        """The run's evaluation settings; the defaults for a plain folder."""
        spec = self.run_spec()
        return EvaluationSpec() if spec is None else spec.evaluation

    def data(self) -> PreparedData | None:
        """The run's data; None for a plain folder."""
        return (
            None
            if self.run_folder is None
            else open_prepared(RunFolder(self.run_folder).data_folder())
        )


def open_run_model(
    run_folder: Path, family_name: str, context: int | None, *, device: torch.device | str = "cpu"
) -> EvaluatedModel:
    """A finished run's model on this device, with its tokenizer.

    Raises:
        SpecError: the run is not finished.
        StorageError: a file is missing or damaged.
    """
    check_model(run_folder, run_folder.name)
    family, folder = family_of(family_name), RunFolder(run_folder).model
    remedy = f"remove {folder}; {EXPORT_AGAIN}"
    try:
        model = load_model(family, folder, remedy).to(device).eval()
    except SpecError as error:  # of a folder of unknown origin; a run's can be made again
        raise StorageError(f"{error}, or {remedy}") from error
    return EvaluatedModel(family, model, run_tokenizer(run_folder), context, torch.device(device))


def run_tokenizer(run_folder: Path) -> TextTokenizer:
    """The tokenizer of a finished run: beside its model, or of its prepared corpus.

    Raises:
        StorageError: both are gone.
    """
    folder = RunFolder(run_folder)
    if (folder.model / TOKENIZER_FILE).exists():
        return tokenizer_in(folder.model)
    return open_prepared(folder.data_folder()).tokenizer


def check_model(run_folder: Path, name: str, *, contents: bool = True) -> None:
    """Refuse a run without an exported model that is whole (see `damage_of_model`).

    Raises:
        SpecError: the run is not finished.
        StorageError: it is finished, and its model is missing or damaged; or its ledger cannot be
            read.
    """
    damage = damage_of_model(run_folder, contents=contents)
    if damage is None:
        return
    # The folder may be given by a path from within it.
    key, root = run_folder.resolve().name, run_folder.resolve().parent.parent
    if Ledger(root).entry(key).state == "finished":
        raise StorageError(f"run {name}: {model_problem(run_folder, damage)}")
    raise SpecError(
        f"run {name}: is not finished, so it has no exported model; resume it with `cola run`"
    )


def find_target(name: str, root: Path, context: int | None) -> Target:
    """A finished run by the names of `find_run`, or a folder with a model and its tokenizer.

    `context` (tokens) replaces the length that the model was trained on.

    Raises:
        SpecError: there is no such run or model, or the run is not finished.
        StorageError: a state file of the run cannot be read, or its model is missing or damaged.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and not RunFolder(folder).spec.exists():
        family = family_in(folder)
        context = context if context is not None else context_in(folder)
        tokenizer_in(folder)  # so that a folder without one is refused before any work
        key = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=4).hexdigest()
        answers = OutputFolder(root).answers / f"{folder.resolve().name}-{key}"
        return Target(name, family, folder.resolve(), None, context, in_context(answers, context))
    run_folder = find_run(name, root)
    spec = load_run_spec(run_folder)
    check_model(run_folder, name, contents=False)
    own = spec.data.sequence_length
    answers = RunFolder(run_folder).answers
    if context not in (None, own):
        answers = in_context(answers, context)
    return Target(
        name, spec.family, RunFolder(run_folder).model, run_folder, context or own, answers
    )


def in_context(answers: Path, context: int | None) -> Path:
    """The folder for answers in a given context; None is the model's trained context."""
    return answers if context is None else answers / f"context-{context}"
