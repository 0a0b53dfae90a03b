"""The sequences of further held-out texts: cut once per content, and kept beside the corpus.

N sequences of L tokens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cola.data.corpus_files import CorpusFile, list_files, listing_of
from cola.data.fingerprint import corpus_identity
from cola.data.held_out import spread_order
from cola.data.prepare import PreparedData
from cola.data.sources import Corpus, ReadCounts, corpus_pieces
from cola.data.summary import left_out_of
from cola.errors import SpecError, StorageError
from cola.files import file_lock
from cola.held_out_sets.packing import encoded
from cola.held_out_sets.typos import mistyped_rows
from cola.records import OWN_TEXT
from cola.spec.base import canonical_json
from cola.spec.data import DataSpec, HeldOutText, LocalFiles, PerturbedText, PythonStdlib

log = logging.getLogger(__name__)

KEY = "evaluation.held_out"
FORMAT = 1  # to be raised with every change of code that changes the sequences
# Chosen: of a text so many times what is measured is read, so that its sequences are of many
# documents and a large corpus is not read to its end.
READ_FACTOR = 64


@dataclass(frozen=True)
class TextRows:
    """Sequences of a held-out text: rows_NL, UTF-8 bytes and document of each, and a sentence on
    each part that was not read.

    `documents_of` names the text whose documents these are: of texts that name the same one, equal
    numbers are the same document.
    """

    rows_NL: np.ndarray
    bytes_N: np.ndarray
    documents_N: np.ndarray
    documents_of: str
    notes: tuple[str, ...] = ()


def own_rows(data: PreparedData, sequences: int) -> TextRows:
    """The study's own: the first `sequences` of the split on which finished models are scored."""
    split = data.split(data.final)
    ids = np.arange(min(sequences, len(split)))
    return TextRows(split.rows(ids), split.bytes_of(ids), split.documents_of(ids), OWN_TEXT)


def text_fingerprint(name: str, text: HeldOutText) -> str:
    """SHA-256 (hex) of what decides a text's content, whatever corpus and tokenizer it meets.

    Raises:
        SpecError: beginning with the text's key: files are missing, or too much would be left out.
    """
    if isinstance(text, PerturbedText):
        values = text.model_dump(mode="json")
    else:
        values = corpus_identity(text, f"{KEY}.{name}.paths")
    return hashlib.sha256(canonical_json([FORMAT, values]).encode()).hexdigest()


def fingerprints_of(texts: Mapping[str, HeldOutText]) -> dict[str, str]:
    """`text_fingerprint` of each text, by name."""
    return {name: text_fingerprint(name, text) for name, text in texts.items()}


def check_apart(data: DataSpec, texts: Mapping[str, HeldOutText]) -> None:
    """Refuse texts that the study trains on.

    Raises:
        SpecError: naming the text, and the file where it is one.
    """
    if not texts:
        return
    trained = _files_of(data.corpus, "data.corpus.paths")
    for name, text in texts.items():
        if isinstance(text, PerturbedText):
            continue
        shared = trained & _files_of(text, f"{KEY}.{name}.paths")
        if shared or _is_same(text, data.corpus):
            what = f"its file {min(shared)}" if shared else "it"
            raise SpecError(
                f"{KEY}.{name}: {what} is in data.corpus, which the study trains on, so it is not "
                "held out; name other text"
            )


def text_rows(
    name: str, text: HeldOutText, fingerprint: str, *, data: PreparedData, sequences: int
) -> TextRows:
    """At most `sequences` sequences of a text, of as many documents as possible.

    They are kept beside the prepared corpus; of processes that start at once one cuts them.

    Raises:
        SpecError: the text cannot be read, has no whole sequence, does not fit the tokenizer, or
            has not the content of this `fingerprint`.
        StorageError: the folder cannot be written.
    """

    def cut() -> TextRows:
        _check_content(name, text, fingerprint)
        return _cut(name, text, data, sequences=sequences)

    return kept_rows(data, [name, fingerprint, sequences], cut)


def kept_rows(data: PreparedData, parts: list[str | int], cut: Callable[[], TextRows]) -> TextRows:
    """What `cut` gives, kept beside the prepared corpus under the corpus' fingerprint and `parts`.

    Raises:
        StorageError: the folder cannot be written.
    """
    parts = [data.meta["fingerprint"], *parts]
    key = hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:24]
    path = data.folder.parent / f"held-out-{key}.npz"
    found = _opened(path)
    if found is None:
        try:
            with file_lock(path.with_suffix(".lock")):
                found = _opened(path)
                if found is None:
                    found = cut()
                    _keep(path, found)
        except OSError as error:
            raise StorageError(
                f"{path.parent}: cannot keep held-out text ({error.strerror}); give a folder that "
                "can be written and locked"
            ) from error
    return found


def _check_content(name: str, text: HeldOutText, fingerprint: str) -> None:
    if text_fingerprint(name, text) != fingerprint:
        raise SpecError(
            f"{KEY}.{name}: its content changed since the study was planned; run the study again"
        )


def _cut(name: str, text: HeldOutText, data: PreparedData, *, sequences: int) -> TextRows:
    if isinstance(text, PerturbedText):
        return _perturbed(name, text, data, sequences=sequences)
    length, counts = int(data.meta["sequence_length"]), ReadCounts()
    most = READ_FACTOR * sequences * length
    key = f"{KEY}.{name}"
    files = f"{key}.paths" if isinstance(text, LocalFiles) else key
    pieces = corpus_pieces(text, counts, files)
    ids_T, sizes_T, starts_D = encoded(pieces, data.tokenizer, key=key, most=most)
    rows = len(ids_T) // length
    if not rows:
        raise SpecError(
            f"{key}: has {len(ids_T)} tokens, not one whole sequence of data.sequence_length="
            f"{length}; give more text"
        )
    owners_N, order_N = spread_order(
        np.append(starts_D, len(ids_T)), np.arange(len(starts_D)), rows, length=length
    )
    kept_N = order_N[:sequences]
    rows_NL = ids_T[: rows * length].reshape(rows, length)[kept_N]
    bytes_N = sizes_T[: rows * length].reshape(rows, length).sum(axis=1)[kept_N]
    notes = left_out_of(f"held-out text {name}", counts)
    if len(ids_T) > most:
        notes.append(
            f"held-out text {name}: its first {len(ids_T):,} tokens were read, {READ_FACTOR} times "
            "what is measured, and sequences are of those"
        )
    if len(kept_N) < sequences:
        notes.append(f"held-out text {name}: has {len(kept_N)} of the {sequences} sequences asked")
    return TextRows(rows_NL, bytes_N, owners_N[kept_N], name, tuple(notes))


def _perturbed(name: str, text: PerturbedText, data: PreparedData, *, sequences: int) -> TextRows:
    own = own_rows(data, sequences)
    found = list(mistyped_rows(own.rows_NL, data.tokenizer, text))
    if not found:
        raise SpecError(
            f"{KEY}.{name}: no sequence of the test split is as long with errors as without; "
            "choose a larger rate"
        )
    kept, rows, sizes = zip(*found, strict=True)
    left_out = len(own.rows_NL) - len(kept)
    note = f"held-out text {name}: {left_out} sequences got shorter with errors and are left out"
    return TextRows(
        np.stack(rows),
        np.array(sizes),
        own.documents_N[list(kept)],
        OWN_TEXT,
        (note,) if left_out else (),
    )


def _files_of(corpus: Corpus, key: str) -> set[Path]:
    files: tuple[CorpusFile, ...] = ()
    if isinstance(corpus, LocalFiles):
        files = listing_of(corpus.paths, key).files
    elif isinstance(corpus, PythonStdlib):
        files = list_files(corpus).files
    return {file.path.resolve() for file in files}


def _is_same(text: Corpus, corpus: Corpus) -> bool:
    """Whether both are of one source with the same settings, however much of it is taken."""
    amounts = {"documents", "max_documents", "streaming", "tokens"}
    return text.model_dump(exclude=amounts) == corpus.model_dump(exclude=amounts)


def _opened(path: Path) -> TextRows | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            return TextRows(
                arrays["rows"].astype(np.int64),
                arrays["bytes"],
                arrays["documents"],
                about["documents_of"],
                tuple(about["notes"]),
            )
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s: is damaged (%s); it is made again", path, error)
        return None


def _keep(path: Path, rows: TextRows) -> None:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(
            temporary,
            rows=rows.rows_NL.astype(np.int32),
            bytes=rows.bytes_N,
            documents=rows.documents_N,
            about=json.dumps({"documents_of": rows.documents_of, "notes": rows.notes}),
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def prepare_texts(
    texts: Mapping[str, HeldOutText],
    fingerprints: Mapping[str, str],
    *,
    data: PreparedData,
    sequences: int,
) -> dict[str, TextRows]:
    """The study's own sequences and those of every text, by name; nothing where there is no text.

    Raises:
        SpecError: see `text_rows`.
        StorageError: see `text_rows`.
    """
    if not texts:
        return {}
    return {OWN_TEXT: own_rows(data, sequences)} | {
        name: text_rows(name, text, fingerprints[name], data=data, sequences=sequences)
        for name, text in texts.items()
    }
