"""From a run or a folder to a model that is served."""

from __future__ import annotations

from pathlib import Path

import torch

from cola.families.registry import definition_of
from orchestration.inference.target import Target, find_target
from orchestration.serving.completion_request import ServedModel
from orchestration.serving.engine import Engine, gives_logprobs
from orchestration.serving.server import Service
from orchestration.web.access_token import AccessToken


def opened_service(name: str, root: Path, token: AccessToken, *, rows: int) -> Service:
    """The model of a run or folder, loaded and ready to answer up to `rows` texts at once.

    Raises:
        SpecError: there is no such run or model, or the run is not finished.
        StorageError: a file is missing or damaged.
    """
    target = find_target(name, root, None)
    model = target.open("cuda" if torch.cuda.is_available() else "cpu")
    served = ServedModel(
        name=model_name(target),
        definition=definition_of(target.family),
        defaults=target.settings().generation,
        encode=model.tokenizer.encode,
        vocabulary=model.tokenizer.vocab_size,
        context=model.context,
        fills_gaps=model.family.fills_gaps,
        gives_logprobs=gives_logprobs(model),
        sizes=model.family.sizes_of(model.model),
    )
    return Service(served, model.tokenizer, Engine(model, rows), token)


def model_name(target: Target) -> str:
    """The name by which clients ask for it: a run's as it was given, a folder's own."""
    return target.name if target.run_folder is not None else target.model_folder.name
