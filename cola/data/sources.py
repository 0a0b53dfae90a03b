"""Where text comes from: corpora as streams of pieces of bounded length.

A document (a file, a JSON line, a row of a data set) longer than `PIECE_CHARACTERS` is cut at a
paragraph, line or word end into pieces, so that one huge file can be split into training and
validation text and encoded in parallel. Pieces concatenate to the document exactly, except that
pieces without a visible character are dropped.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TextIO, cast

from cola.errors import SpecError, one_line
from cola.spec import DataSpec
from cola.spec.data import HuggingFaceDataset, LocalFiles, PythonStdlib

PIECE_CHARACTERS = 16_384
BLOCK_CHARACTERS = 1 << 18

_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_FOREIGN_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})

Corpus = PythonStdlib | LocalFiles | HuggingFaceDataset


@dataclass(frozen=True)
class Piece:
    """Up to `PIECE_CHARACTERS` characters of a document. `first`: the document starts here."""

    text: str
    first: bool


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus. `named`: given by the user himself, not found in a folder."""

    path: Path
    name: str
    named: bool


@dataclass
class ReadCounts:
    """What one pass over a corpus has met so far (bytes: UTF-8 bytes of text)."""

    documents: int = 0
    bytes: int = 0
    skipped_files: int = 0
    skipped_documents: int = 0


def read_pieces(spec: DataSpec, counts: ReadCounts) -> Iterator[Piece]:
    """All pieces of the corpus in a fixed order; `counts` grows as they are taken.

    Files of a folder that are not UTF-8 are skipped and counted, as are rows whose text is null.

    Raises:
        SpecError: when something named in the specification cannot be read.
    """
    for blocks in _documents(spec.corpus, counts):
        first = True
        for text in split_text(blocks):
            if not text.strip():
                continue
            counts.bytes += len(text.encode("utf-8"))
            yield Piece(text, first)
            first = False
        counts.documents += not first


def split_text(blocks: Iterable[str]) -> Iterator[str]:
    """Cut one document, given in blocks, into pieces of at most `PIECE_CHARACTERS` characters.

    Where the cuts fall does not depend on how the document was cut into blocks.
    """
    pending = ""
    for block in blocks:
        pending += _without_surrogates(block)
        while len(pending) > PIECE_CHARACTERS:
            cut = _cut(pending)
            yield pending[:cut]
            pending = pending[cut:]
    if pending:
        yield pending


def expected_bytes(corpus: Corpus) -> int | None:
    """Size of the corpus' files in bytes (for progress only); None when it is not known."""
    if isinstance(corpus, HuggingFaceDataset):
        return None
    return sum(file.path.stat().st_size for file in corpus_files(corpus))


def corpus_files(corpus: PythonStdlib | LocalFiles) -> list[CorpusFile]:
    """The corpus' files in the order in which they are read.

    Raises:
        SpecError: when a path is missing or no file is found.
    """
    if isinstance(corpus, PythonStdlib):
        return _stdlib_files(corpus.include_tests)
    files = [file for given in corpus.paths for file in _files_at(given)]
    unique = {file.path.resolve(): file for file in reversed(files)}
    return [file for file in files if unique[file.path.resolve()] is file]


def folder_files(root: Path) -> list[CorpusFile]:
    """Visible files below `root`, sorted by relative name; links to folders are not followed."""
    found: list[CorpusFile] = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".")]
        for name in files:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                found.append(CorpusFile(path, path.relative_to(root).as_posix(), named=False))
    return sorted(found, key=lambda file: file.name)


def _stdlib_files(include_tests: bool) -> list[CorpusFile]:
    root = Path(sysconfig.get_paths()["stdlib"])
    excluded = _FOREIGN_FOLDERS if include_tests else _FOREIGN_FOLDERS | _TEST_FOLDERS
    files: list[CorpusFile] = []
    for folder, subfolders, names in os.walk(root):
        # What the build of this interpreter generated (paths, compiler flags) is not the library.
        subfolders[:] = [n for n in subfolders if n not in excluded and not n.startswith("config-")]
        for name in names:
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                path = Path(folder, name)
                files.append(CorpusFile(path, path.relative_to(root).as_posix(), named=False))
    if not files:
        raise SpecError(
            f"data.corpus.source=python-stdlib: no library sources in {root}; "
            "use data.corpus.source=files with data.corpus.paths"
        )
    return sorted(files, key=lambda file: file.name)


def _files_at(given: str) -> list[CorpusFile]:
    path = Path(given).expanduser()
    if path.is_file():
        return [CorpusFile(path, path.name, named=True)]
    if not path.is_dir():
        raise SpecError(
            f"data.corpus.paths={given}: no such file or folder; give text or .jsonl files, or "
            "folders of them"
        )
    files = folder_files(path)
    if not files:
        raise SpecError(f"data.corpus.paths={given}: the folder holds no files; give another")
    return files


def _documents(corpus: Corpus, counts: ReadCounts) -> Iterator[Iterable[str]]:
    if isinstance(corpus, HuggingFaceDataset):
        yield from _dataset_documents(corpus, counts)
        return
    text_field = corpus.text_field if isinstance(corpus, LocalFiles) else ""
    for file in corpus_files(corpus):
        if not file.named and not _is_utf8(file.path, file.path.stat().st_mtime_ns):
            counts.skipped_files += 1
        elif file.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _json_lines(file.path, text_field, counts)
        else:
            yield _file_blocks(file.path)


class _NotUtf8Error(SpecError):
    pass


@contextmanager
def _reading(path: Path) -> Iterator[TextIO]:
    """The decompressed text of a file; what goes wrong while it is read is a `SpecError`."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        # newline="" keeps line ends as they are; utf-8-sig drops a byte order mark.
        with opener(path, "rt", encoding="utf-8-sig", newline="") as handle:
            yield cast(TextIO, handle)
    except UnicodeDecodeError as error:
        raise _NotUtf8Error(
            f"data.corpus.paths={path}: is not UTF-8 text; convert it (iconv) or leave it out"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise SpecError(
            f"data.corpus.paths={path}: cannot be read ({error}); mend it or leave it out"
        ) from error


@lru_cache(maxsize=100_000)
def _is_utf8(path: Path, mtime_ns: int) -> bool:
    """Whether the whole file can be decoded: known before its first piece is handed out."""
    try:
        for _ in _file_blocks(path):
            pass
    except _NotUtf8Error:
        return False
    return True


def _file_blocks(path: Path) -> Iterator[str]:
    with _reading(path) as handle:
        while block := handle.read(BLOCK_CHARACTERS):
            yield block


def _json_lines(path: Path, text_field: str, counts: ReadCounts) -> Iterator[Iterable[str]]:
    with _reading(path) as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            where = f"data.corpus.paths={path}: line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SpecError(f"{where} is not JSON ({error}); mend or remove it") from error
            if not isinstance(row, dict):
                raise SpecError(f"{where} is not a JSON object; write {{{text_field!r}: ...}}")
            yield from _row_text(row, text_field, where, counts=counts)


def _dataset_documents(corpus: HuggingFaceDataset, counts: ReadCounts) -> Iterator[Iterable[str]]:
    where = f"data.corpus.name={corpus.name}"
    rows = _dataset_rows(corpus)
    for row in itertools.islice(rows, corpus.max_documents):
        yield from _row_text(row, corpus.text_field, where, counts=counts)


def _dataset_rows(corpus: HuggingFaceDataset) -> Iterator[Mapping[str, object]]:
    import datasets  # heavy: only for this kind of corpus

    try:
        yield from datasets.load_dataset(
            corpus.name,
            corpus.config,
            split=corpus.split,
            revision=corpus.revision,
            streaming=corpus.streaming,
        )
    except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as e:
        reason = one_line(e)
        raise SpecError(
            f"data.corpus.name={corpus.name}: cannot be read ({type(e).__name__}: {reason}); "
            "check name, config, split and revision, the network, or use data.corpus.source=files"
        ) from e


def _row_text(
    row: Mapping[str, object], text_field: str, where: str, *, counts: ReadCounts
) -> Iterator[Iterable[str]]:
    """The row's text as one document in blocks; nothing (but a count) when it is null."""
    if text_field not in row:
        names = ", ".join(map(str, row))
        raise SpecError(
            f"data.corpus.text_field={text_field}: no such field ({where}); one of: {names}"
        )
    text = row[text_field]
    if text is None:
        counts.skipped_documents += 1
    elif isinstance(text, str):
        yield (
            text[start : start + BLOCK_CHARACTERS]
            for start in range(0, len(text), BLOCK_CHARACTERS)
        )
    else:
        raise SpecError(
            f"data.corpus.text_field={text_field}: holds {type(text).__name__}, not text ({where});"
            " name a field of strings"
        )


def _cut(text: str) -> int:
    """Where to cut off the next piece: the last paragraph, line or word end in its second half."""
    low = PIECE_CHARACTERS // 2
    for end, kept in (("\n\n", 2), ("\n", 1), (" ", 0)):
        found = text.rfind(end, low, PIECE_CHARACTERS)
        if found >= 0:
            return found + kept
    return PIECE_CHARACTERS


def _without_surrogates(text: str) -> str:
    """Lone surrogates (possible in JSON escapes) have no UTF-8 form: replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
