"""A model under evaluation: its family, weights and tokenizer, from a plain folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cola.checksums import CHECKSUMS_FILE, check_folder
from cola.data import TextTokenizer
from cola.errors import SpecError, StorageError, one_line
from cola.families.interface.definition import MODEL_CONFIG
from cola.families.interface.family import Family
from cola.families.registry import definitions, family_of

log = logging.getLogger(__name__)

EXPORT_AGAIN = (
    f"export the model again, or remove {CHECKSUMS_FILE} where its files were changed on purpose"
)


@dataclass(frozen=True)
class EvaluatedModel:
    """`context` is how many tokens a sequence may have (prompt and continuation); None: any number.

    The model is in evaluation mode, on `device`.
    """

    family: Family
    model: Any
    tokenizer: TextTokenizer
    context: int | None
    device: torch.device


def open_evaluated_model(
    folder: Path, context: int | None, device: torch.device | str = "cpu"
) -> EvaluatedModel:
    """The model of a folder that `cola export` wrote, or of the public release in its layout.

    `context` None: what the folder says (see `context_in`).

    Raises:
        SpecError: when the folder holds no model of a known family, or no tokenizer.
        StorageError: when a file is damaged.
    """
    family = family_of(family_in(folder))
    tokenizer = tokenizer_in(folder)
    check_folder(folder, EXPORT_AGAIN)
    model = load_model(family, folder, EXPORT_AGAIN).to(device).eval()
    if context is None:
        context = context_in(folder)
    log.info("%s: model of family %s, context %s", folder, family.name, context)
    return EvaluatedModel(family, model, tokenizer, context, torch.device(device))


def load_model(family: Family, folder: Path, remedy: str) -> Any:
    """The model in a folder, whose files are as they were written as far as is known.

    Raises:
        SpecError: what is there is no model (see `cola.families.interface.pretrained`).
        StorageError: it cannot be read for any other reason; `remedy` ends the message.
    """
    from safetensors import SafetensorError

    try:
        return family.load(folder)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError) as error:
        raise StorageError(
            f"{folder}: its model cannot be opened ({type(error).__name__}: {one_line(error)}); "
            f"{remedy}"
        ) from error


def family_in(folder: Path) -> str:
    """The name of the family whose model lies in the folder.

    Raises:
        SpecError: when it is none.
    """
    for family in definitions():
        if all(
            _type_in(folder / part) in {kind, *family.other_types.get(part, ())}
            for part, kind in family.folders.items()
        ):
            return family.name
    known = [_describe_folders(family.folders) for family in definitions()]
    raise SpecError(
        f"{folder}: holds no model that can be evaluated; give a folder that `cola export` wrote "
        f"({', or '.join(known)})"
    )


def context_in(folder: Path) -> int | None:
    """How many tokens a sequence may have by the model's configuration; None: it says nothing."""
    parts = dict.fromkeys(folder / family.config_file() for family in definitions())
    lengths = [_json_in(path).get("max_position_embeddings") for path in parts]
    return next((length for length in lengths if isinstance(length, int)), None)


def tokenizer_in(folder: Path) -> TextTokenizer:
    """The tokenizer beside a model.

    Raises:
        SpecError: when there is none, or none that says which token ends a text.
    """
    if not (folder / "tokenizer.json").is_file():
        raise SpecError(
            f"{folder}: has no tokenizer.json; without its tokenizer a model's text cannot be "
            "judged, so put the one beside it that it was trained with"
        )
    eos = _json_in(folder / "tokenizer_config.json").get("eos_token")
    content = eos.get("content") if isinstance(eos, dict) else eos
    if not isinstance(content, str):
        raise SpecError(f"{folder}/tokenizer_config.json: names no eos_token; add it")
    return TextTokenizer.open(folder, content)


def _json_in(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _type_in(folder: Path) -> object:
    return _json_in(folder / MODEL_CONFIG).get("model_type")


def _describe_folders(folders: Mapping[str, str]) -> str:
    return " and ".join(
        f"config.json of model type {kind}" if part == "." else f"{part}/ of model type {kind}"
        for part, kind in folders.items()
    )
