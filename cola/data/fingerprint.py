"""What identifies prepared data: the content it is made from, not where that lies."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from cola.data.corpus_files import PATHS, CorpusFile, list_files, listing_of, walk
from cola.data.formats import format_of
from cola.data.hub import local_folder
from cola.data.pairs import pair_files, tables_of
from cola.data.sources import PIECE_CHARACTERS, Corpus
from cola.data.tokenizer import TOKENIZER_FILE
from cola.errors import SpecError
from cola.files import sha256_of
from cola.hidden_topics.documents import documents
from cola.image_captions.drawing import pair_of
from cola.spec import DataSpec, canonical_json
from cola.spec.data import (
    Drawn,
    GeneratedText,
    HubTokenizer,
    ImagePairs,
    LocalFiles,
    PythonStdlib,
    TokenizerFile,
)

# To be raised with every change of code that changes the tokens made from the same text.
FORMAT_VERSION = 1
# The same, of the division of held-out text and of the order of its sequences.
HELD_OUT_VERSION = 1
# The same, of files that are not the standard library's.
READER_VERSION = 2
MAX_HASHED_BYTES = 2 * 10**9
BEGINNING = 4  # documents of a generated corpus that stand for all of them


def source_fingerprint(spec: DataSpec) -> str:
    """SHA-256 (hex) of everything that decides the packed tokens; `spec.seed` only orders those of
    training.

    Of files: formats, sizes and SHA-256 of the content, in the order in which they are read; of
    the standard library, names in place of formats. When a corpus exceeds 2 GB in total, name and
    time of modification stand in for the content. Of a data set or tokenizer of the hub: name,
    configuration, split and revision only, without any network; when the name is a local folder,
    its files in place of it. Of a generated corpus its specification and first documents.

    Raises:
        SpecError: when files are missing, none is found, or too much would be left out.
    """
    values = {
        "format": FORMAT_VERSION,
        "piece_characters": PIECE_CHARACTERS,
        "corpus": corpus_identity(spec.corpus),
        "tokenizer": _tokenizer_identity(spec),
        "sequence_length": spec.sequence_length,
        "validation_fraction": spec.validation_fraction,
        "held_out": HELD_OUT_VERSION,
    }
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def corpus_identity(corpus: Corpus, key: str = PATHS) -> dict[str, Any]:
    """What of `source_fingerprint` is the corpus' own; `key` is the one that names its files.

    Raises:
        SpecError: when files are missing, none is found, or too much would be left out.
    """
    values: dict[str, Any] = corpus.model_dump(mode="json", exclude={"paths", "streaming"})
    folder = local_folder(corpus)
    if isinstance(corpus, LocalFiles):
        values["files"] = _contents(listing_of(corpus.paths, key).files)
        values["reader"] = READER_VERSION
    elif isinstance(corpus, PythonStdlib):
        values["files"] = _contents(list_files(corpus).files, by_name=True)
        values["python"] = platform.python_version()
    elif isinstance(corpus, ImagePairs):
        values["files"] = _contents(tables_of(corpus))
        values["images"] = [digest_of(pair.image) for pair in pair_files(corpus)]
    elif isinstance(corpus, Drawn):
        values["beginning"] = _beginning(corpus)
    elif folder is not None:
        del values["name"]
        values["files"] = _contents(_dataset_files(folder), by_name=True)
        values["reader"] = READER_VERSION
    return values


@lru_cache(maxsize=8)
def _beginning(corpus: Drawn) -> str:
    """SHA-256 (hex) of the first documents: another release of numpy may draw others."""
    few = min(corpus.documents, BEGINNING)
    if isinstance(corpus, GeneratedText):
        texts = documents(corpus.model_copy(update={"documents": few}))
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()
    digest = hashlib.sha256()
    for text, image in (pair_of(corpus, number) for number in range(few)):
        digest.update(text.encode() + image.tobytes())
    return digest.hexdigest()


def _tokenizer_identity(spec: DataSpec) -> dict[str, Any]:
    values: dict[str, Any] = spec.tokenizer.model_dump(mode="json", exclude={"path"})
    if isinstance(spec.tokenizer, TokenizerFile):
        path = Path(spec.tokenizer.path).expanduser()
        if not path.is_file():
            raise SpecError(
                f"data.tokenizer.path={spec.tokenizer.path}: no such file; give a tokenizer.json"
            )
        values["sha256"] = digest_of(path)
    elif isinstance(spec.tokenizer, HubTokenizer):
        folder = local_folder(spec.tokenizer)
        if folder is not None and (folder / TOKENIZER_FILE).is_file():
            del values["name"]
            values["sha256"] = digest_of(folder / TOKENIZER_FILE)
    return values


def _dataset_files(folder: Path) -> list[CorpusFile]:
    """Visible files of a data set's folder, among them a README, which may configure it."""
    return [
        CorpusFile(path, name, named=False, format=format_of(name))
        for path, name in walk(folder)
        if not path.name.startswith(".") and path.is_file()
    ]


def _contents(
    files: Sequence[CorpusFile], *, by_name: bool = False
) -> list[list[str | int | None]]:
    sizes = {file.path: file.path.stat().st_size for file in files}
    if sum(sizes.values()) > MAX_HASHED_BYTES:
        return [[f.name, sizes[f.path], f.path.stat().st_mtime_ns] for f in files]
    return [[f.name if by_name else f.format, sizes[f.path], digest_of(f.path)] for f in files]


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file, read once a process unless it changes.

    Raises:
        SpecError: it cannot be read.
    """
    status = path.stat()
    try:
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); check its mode") from error


@lru_cache(maxsize=100_000)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Kept per process, so that planning many runs reads a corpus once (a change is noticed)."""
    return sha256_of(path)
