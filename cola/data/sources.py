"""Where text comes from: corpora as streams of pieces of bounded length.

A document (a file of text, a row of a file or data set) longer than `PIECE_CHARACTERS` is cut at a
paragraph, line or word end into pieces, so that one huge file can be split into training and
validation text and encoded in parallel. Pieces concatenate to the document exactly, except that
pieces without a visible character are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cola.data.corpus_files import (
    PATHS,
    CorpusFile,
    Listing,
    listing_of,
    readable_files,
    without_binaries,
)
from cola.data.documents import ReadCounts, file_documents
from cola.data.hub import dataset_documents
from cola.data.pairs import captions
from cola.data.tokenizer import without_surrogates
from cola.hidden_topics.documents import documents as generated_documents
from cola.spec import DataSpec
from cola.spec.data import (
    Drawn,
    GeneratedText,
    HuggingFaceDataset,
    ImagePairs,
    LocalFiles,
    Pairs,
    PythonStdlib,
)

__all__ = [
    "PIECE_CHARACTERS",
    "Piece",
    "ReadCounts",
    "corpus_pieces",
    "read_file_pieces",
    "read_pieces",
    "split_text",
]

PIECE_CHARACTERS = 16_384

Corpus = PythonStdlib | LocalFiles | HuggingFaceDataset | Drawn | ImagePairs


@dataclass(frozen=True)
class Piece:
    """Up to `PIECE_CHARACTERS` characters of a document. `first`: the document starts here."""

    text: str
    first: bool


def read_pieces(spec: DataSpec, counts: ReadCounts) -> Iterator[Piece]:
    """All pieces of the corpus in a fixed order; `counts` grows as they are taken.

    What is left out is counted: files of a folder by the rules of `cola.data.corpus_files`, rows
    whose text is null, documents without a visible character.

    Raises:
        SpecError: when something named in the specification cannot be read, or too much of the
            corpus would be left out.
    """
    yield from corpus_pieces(spec.corpus, counts)


def corpus_pieces(corpus: Corpus, counts: ReadCounts, key: str = PATHS) -> Iterator[Piece]:
    """`read_pieces` of a corpus by itself; `key` is the one that names its files."""
    yield from _pieces(_documents(corpus, counts, key), counts)


def read_file_pieces(
    paths: Iterable[Path], counts: ReadCounts, *, key: str, text_field: str = "text"
) -> Iterator[Piece]:
    """All pieces of the files at these paths, and of folders', as of a corpus of files.

    Raises:
        SpecError: beginning with `key`, as `read_pieces`.
    """
    listing = without_binaries(listing_of(map(str, paths), key), key)
    yield from _pieces(_file_documents(listing, text_field, counts, key=key), counts)


def _pieces(documents: Iterable[Iterable[str]], counts: ReadCounts) -> Iterator[Piece]:
    for blocks in documents:
        first = True
        for text in split_text(blocks):
            if not text.strip():
                continue
            counts.bytes += len(text.encode("utf-8"))
            yield Piece(text, first)
            first = False
        counts.documents += not first
        counts.blank_documents += first


def split_text(blocks: Iterable[str]) -> Iterator[str]:
    """Cut one document, given in blocks, into pieces of at most `PIECE_CHARACTERS` characters.

    Where the cuts fall does not depend on how the document was cut into blocks.
    """
    pending = ""
    for block in blocks:
        pending += without_surrogates(block)
        while len(pending) > PIECE_CHARACTERS:
            cut = _cut(pending)
            yield pending[:cut]
            pending = pending[cut:]
    if pending:
        yield pending


def _documents(corpus: Corpus, counts: ReadCounts, key: str) -> Iterator[Iterable[str]]:
    if isinstance(corpus, HuggingFaceDataset):
        yield from dataset_documents(corpus, counts)
        return
    if isinstance(corpus, GeneratedText):
        yield from ([text] for text in generated_documents(corpus))
        return
    if isinstance(corpus, Pairs):
        yield from ([text] for text in captions(corpus))
        return
    if isinstance(corpus, LocalFiles):
        listing = without_binaries(listing_of(corpus.paths, key), key)
        yield from _file_documents(listing, corpus.text_field, counts, key=key)
        return
    yield from _file_documents(readable_files(corpus), "", counts, key=key)


def _file_documents(
    listing: Listing, text_field: str, counts: ReadCounts, *, key: str
) -> Iterator[Iterable[str]]:
    counts.skipped = listing.skipped
    for file in listing.files:
        yield from _counted(file, text_field, counts, key=key)


def _counted(
    file: CorpusFile, text_field: str, counts: ReadCounts, *, key: str
) -> Iterator[Iterable[str]]:
    """The file's documents; a file of rows is counted where none of them has text."""
    before = counts.documents
    yield from file_documents(file, text_field, counts, key=key)
    if counts.documents == before and file.format != "text":
        counts.files_without_text.append(file.name)


def _cut(text: str) -> int:
    """Where to cut off the next piece: the last paragraph, line or word end in its second half."""
    low = PIECE_CHARACTERS // 2
    for end, kept in (("\n\n", 2), ("\n", 1), (" ", 0)):
        found = text.rfind(end, low, PIECE_CHARACTERS)
        if found >= 0:
            return found + kept
    return PIECE_CHARACTERS
