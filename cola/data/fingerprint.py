"""What identifies prepared data: the content it is made from, not where that lies."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

from cola.data.sources import PIECE_CHARACTERS, CorpusFile, corpus_files, folder_files
from cola.data.tokenizer import TOKENIZER_FILE
from cola.errors import SpecError
from cola.spec import DataSpec, canonical_json
from cola.spec.data import HubTokenizer, HuggingFaceDataset, LocalFiles, TokenizerFile

# To be raised with every change of code that changes the tokens made from the same text.
FORMAT_VERSION = 1
MAX_HASHED_BYTES = 2 * 10**9


def source_fingerprint(spec: DataSpec) -> str:
    """SHA-256 (hex) of everything that decides the packed tokens; `spec.seed` only orders them.

    Of files: names relative to the given path, sizes and SHA-256 of the content. When a corpus
    exceeds 2 GB in total, time of modification stands in for the content. Of a data set or
    tokenizer of the hub: name, configuration, split and revision only, without any network; when
    the name is a local folder, its files count too.

    Raises:
        SpecError: when files are missing, or none is found.
    """
    corpus: dict[str, Any] = spec.corpus.model_dump(mode="json", exclude={"paths", "streaming"})
    if isinstance(spec.corpus, HuggingFaceDataset):
        folder = Path(spec.corpus.name)
        if folder.is_dir():
            del corpus["name"]  # where the folder lies
            corpus["files"] = _contents(folder_files(folder))
    else:
        corpus["files"] = _contents(corpus_files(spec.corpus))
        if not isinstance(spec.corpus, LocalFiles):
            corpus["python"] = platform.python_version()
    values = {
        "format": FORMAT_VERSION,
        "piece_characters": PIECE_CHARACTERS,
        "corpus": corpus,
        "tokenizer": _tokenizer_identity(spec),
        "sequence_length": spec.sequence_length,
        "validation_fraction": spec.validation_fraction,
    }
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def _tokenizer_identity(spec: DataSpec) -> dict[str, Any]:
    values: dict[str, Any] = spec.tokenizer.model_dump(mode="json", exclude={"path"})
    if isinstance(spec.tokenizer, TokenizerFile):
        path = Path(spec.tokenizer.path).expanduser()
        if not path.is_file():
            raise SpecError(
                f"data.tokenizer.path={spec.tokenizer.path}: no such file; give a tokenizer.json"
            )
        values["sha256"] = _digest_of(path)
    elif isinstance(spec.tokenizer, HubTokenizer):
        path = Path(spec.tokenizer.name) / TOKENIZER_FILE
        if path.is_file():
            del values["name"]  # where the folder lies
            values["sha256"] = _digest_of(path)
    return values


def _contents(files: list[CorpusFile]) -> list[list[str | int]]:
    sizes = {file.path: file.path.stat().st_size for file in files}
    if sum(sizes.values()) > MAX_HASHED_BYTES:
        return [[f.name, sizes[f.path], f.path.stat().st_mtime_ns] for f in files]
    return [[f.name, sizes[f.path], _digest_of(f.path)] for f in files]


def _digest_of(path: Path) -> str:
    status = path.stat()
    try:
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); check its mode") from error


@lru_cache(maxsize=100_000)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Kept per process, so that planning many runs reads a corpus once (a change is noticed)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
