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
from cola.records import Metric
from cola.study import RunSpec
from orchestration.inference.target import check_model, run_tokenizer
from orchestration.state.last_validation import last_validation, run_nll_kind
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
            built.rename(target)
    log.info("exported %s to %s", run_folder.name, target)


def write_context_length(path: Path, tokens: int) -> None:
    """Write the length of the training sequences into a model's configuration."""
    config = json.loads(path.read_text(encoding="utf-8")) | {"max_position_embeddings": tokens}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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


def model_card(run_folder: Path, spec: RunSpec) -> str:
    """Markdown of what the model is and how it was trained, with the whole specification."""
    family = definition_of(spec.family)
    rows = {
        "family": family.label,
        "run": run_folder.name,
        "seed": str(spec.seed),
        "budget": f"{spec.budget:.6g} FLOPs ({spec.compute})",
        "training FLOPs, executed": f"{spec.train_flops_at(spec.steps, 'executed'):.6g}",
        "training FLOPs, nominal": f"{spec.train_flops_at(spec.steps, 'nominal'):.6g}",
        "optimiser steps": str(spec.steps),
        "tokens": str(spec.steps * spec.tokens_per_step),
        "validation NLL": held_out_nll(run_folder, spec, Metric.NLL, Metric.BITS_PER_BYTE),
        "test NLL": held_out_nll(run_folder, spec, Metric.TEST_NLL, Metric.TEST_BITS_PER_BYTE),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# {family.label}, trained by cola-scaling

{family.opening_note}

| | |
|---|---|
{table}

*Executed* FLOPs count the matrix products that are computed, with attention's visible density;
*nominal* is the literature's 6 N D. The NLL is over fixed held-out sequences of the training
corpus, all tokens included; those of the test split select nothing. A *bound* is at least the
model's true NLL, an *estimate* may lie on either side of it.

## Specification

```yaml
{spec.to_yaml()}```
"""


def held_out_nll(run_folder: Path, spec: RunSpec, nll_key: str, bits_key: str) -> str:
    """The last evaluation's NLL and bits per byte, with the NLL's kind and the step."""
    last = last_validation(run_folder)
    if last is None or nll_key not in last.values:
        return "not measured"
    kind = run_nll_kind(spec, last.values)
    nll, bits = last.values[nll_key], last.values[bits_key]
    return f"{nll:.4f} nats per token ({kind}), {bits:.4f} bits per byte, after step {last.step}"
