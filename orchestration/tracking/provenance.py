"""Who ran which version on which data, as MLflow's own tags and data sets have it."""

from __future__ import annotations

import contextlib
import functools
import getpass
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

from cola.records import Tag
from cola.spec.data import DataSpec, HuggingFaceDataset, LocalFiles
from cola.study import RunSpec

# MLflow's names, which its pages have columns for; `Tag` has those that reports read.
USER = "mlflow.user"
SOURCE_TYPE = "mlflow.source.type"
DIGEST_LENGTH = 36  # MLflow's limit
GIT_SECONDS = 5.0  # chosen: a checkout on a slow network drive answers within it


@functools.cache
def source_tags() -> dict[str, str]:
    """Tags of the user, the product's version and, of a checkout, its commit; what is not known is
    left out."""
    tags = {SOURCE_TYPE: "LOCAL"}
    try:
        tags[Tag.SOURCE] = f"cola-scaling {importlib.metadata.version('cola-scaling')}"
    except importlib.metadata.PackageNotFoundError:
        tags[Tag.SOURCE] = "cola-scaling"
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        tags[USER] = getpass.getuser()
    commit = commit_of(Path(__file__).resolve().parents[2])
    return tags if commit is None else {**tags, Tag.COMMIT: commit}


def commit_of(folder: Path) -> str | None:
    """The commit of a git checkout, ending in `-dirty` where files differ from it; None of any
    other folder."""
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty",
               "--exclude=*"]  # fmt: skip
    try:
        found = subprocess.run(  # noqa: S603 (no shell, fixed arguments)
            command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def data_set(spec: RunSpec) -> dict[str, str]:
    """A run's training text as the fields of MLflow's data set: its digest is the start of the
    fingerprint of its content."""
    kind, source = corpus_source(spec.data)
    profile = {
        "tokenizer": spec.data.tokenizer.kind,
        "sequence_length": spec.data.sequence_length,
        "validation_fraction": spec.data.validation_fraction,
        "training_tokens": spec.steps * spec.tokens_per_step,
    }
    return {
        "name": corpus_name(spec.data),
        "digest": spec.data_fingerprint[:DIGEST_LENGTH],
        "source_type": kind,
        "source": json.dumps(source),
        "profile": json.dumps(profile),
    }


def corpus_source(data: DataSpec) -> tuple[str, dict[str, Any]]:
    """Where the text is from, as MLflow's sources of this type say it."""
    corpus = data.corpus
    if isinstance(corpus, HuggingFaceDataset):
        about = {"path": corpus.name, "config_name": corpus.config, "split": corpus.split}
        return "hugging_face", {**about, "revision": corpus.revision}
    if isinstance(corpus, LocalFiles):
        return "local", {"uri": corpus.paths[0], "paths": corpus.paths}
    return "local", {"uri": corpus.source}


def corpus_name(data: DataSpec) -> str:
    """A short name of the text for people."""
    corpus = data.corpus
    if isinstance(corpus, LocalFiles):
        names = [Path(path).name or path for path in corpus.paths]
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return corpus.name if isinstance(corpus, HuggingFaceDataset) else corpus.source
