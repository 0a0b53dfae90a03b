"""Exports a finished run's model as a Hugging Face folder: weights, tokenizer, model card."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path

from cola.checksums import write_checksums
from cola.errors import SpecError, StorageError
from cola.families.registry import definition_of
from cola.files import storage_errors
from cola.study import RunSpec
from orchestration.inference.model_card import model_card
from orchestration.inference.target import check_model, run_tokenizer
from orchestration.state.paths import RunFolder

log = logging.getLogger(__name__)

MODEL_CARD = "README.md"  # for people to edit
PLAIN = {".safetensors", ".json"}  # nothing that opening the folder unpickles or runs


def export_run(run_folder: Path, spec: RunSpec, target: Path) -> None:
    """Write the run's model, its tokenizer and a model card into `target`, all of it or nothing.

    Raises:
        SpecError: the run is not finished, or the target holds something already.
        StorageError: the model is damaged or holds other files than it may, or the target cannot
            be written.
    """
    model = RunFolder(run_folder).model
    check_model(run_folder, run_folder.name)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SpecError(f"--to {target}: holds something already; name a new or an empty folder")
    check_plain_files(model)
    tokenizer = run_tokenizer(run_folder)
    with storage_errors(f"--to {target}", remedy="choose another folder"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cola-export-", dir=target.parent) as temporary:
            built = Path(temporary) / "model"
            shutil.copytree(model, built)
            family = definition_of(spec.family)
            start = family.implementation().name_tokens(built, tokenizer.eos_token_id)
            tokenizer.save(built, start)
            write_context_length(built / family.config_file(), spec.data.sequence_length)
            (built / MODEL_CARD).write_text(model_card(run_folder, spec), encoding="utf-8")
            write_checksums(built, leave_out=[MODEL_CARD])
            make_readable(built)
            built.rename(target)
    log.info("exported %s to %s", run_folder.name, target)


def write_context_length(path: Path, tokens: int) -> None:
    """Write the length of the training sequences into a model's configuration."""
    config = json.loads(path.read_text(encoding="utf-8")) | {"max_position_embeddings": tokens}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def make_readable(folder: Path) -> None:
    """Give files and folders the modes 0644 and 0755: weights are written for their owner alone."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def check_plain_files(model: Path) -> None:
    """Refuse a model folder with anything but safetensors and JSON.

    Raises:
        StorageError: naming the first other file.
    """
    for path in sorted(model.rglob("*")):
        if path.is_symlink() or (path.is_file() and path.suffix not in PLAIN):
            raise StorageError(
                f"{path}: is neither safetensors nor JSON, which is all that an exported model may "
                "hold; remove it or train the run again"
            )
