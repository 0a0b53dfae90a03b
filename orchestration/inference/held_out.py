"""Text that an evaluation is given, as packed sequences: all of it, in order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cola.data import TextTokenizer
from cola.data.sources import ReadCounts, read_file_pieces
from cola.data.summary import left_out_of
from cola.errors import SpecError
from cola.evaluation.tasks.catalog import HeldOut
from cola.held_out_sets.packing import encoded, owners_in
from cola.held_out_sets.texts import text_rows
from cola.study import EvaluationSpec
from orchestration.inference.target import Target

log = logging.getLogger(__name__)

OPTION = "--held-out"


def held_out_text(
    files: Sequence[Path], tokenizer: TextTokenizer, length: int, *, every_sequence: bool
) -> HeldOut:
    """The files' documents, an end of text behind each, in sequences of `length` tokens.

    What does not fill a last sequence is kept as its beginning. `every_sequence`: the likelihood is
    measured of all, not of the first `task_items`.

    Raises:
        SpecError: a file cannot be read, holds no text, or does not fit the tokenizer.
    """
    counts = ReadCounts()
    paths = [path.expanduser() for path in files]
    ids_T, bytes_T, starts_D = encoded(
        read_file_pieces(paths, counts, key=OPTION), tokenizer, key=OPTION
    )
    rows = len(ids_T) // length
    used = rows * length
    log.info("%s: %d tokens, %d of %d", OPTION, len(ids_T), rows, length)
    return HeldOut(
        ids_T[:used].reshape(rows, length),
        bytes_T[:used].reshape(rows, length).sum(axis=1),
        tokenizer,
        last_T=ids_T[used:],
        last_bytes=int(bytes_T[used:].sum()),
        every_sequence=every_sequence,
        left_out=tuple(left_out_of("the held-out text", counts)),
        documents_N=documents_of(starts_D, len(ids_T), rows, length=length),
    )


def documents_of(starts_D: np.ndarray, tokens: int, rows: int, *, length: int) -> np.ndarray | None:
    """The document that most of each sequence is of: (rows,); None where they all are of one."""
    owners = owners_in(starts_D, tokens, rows, length=length)
    return owners if len(np.unique(owners)) > 1 else None


def named_text(files: Sequence[Path], settings: EvaluationSpec) -> str | None:
    """The text of `evaluation.held_out` that the option names; None where it names files.

    Raises:
        SpecError: it names such a text and more, or what is a file here too.
    """
    names = [str(path) for path in files if str(path) in settings.held_out]
    for name in filter(lambda name: Path(name).exists(), names):
        raise SpecError(
            f"{OPTION} {name}: is a text of the study (evaluation.held_out) and a path here; give "
            f"the file's whole path, {Path(name).absolute()}, or call from another folder"
        )
    if len(names) == 1 == len(files):
        return names[0]
    if names:
        raise SpecError(
            f"{OPTION} {names[0]}: is a text of the study (evaluation.held_out), which goes with "
            "no other; give it alone"
        )
    return None


def run_text(target: Target, name: str, *, every_sequence: bool) -> HeldOut:
    """The sequences of a text that the run's study names, as its finished models were measured on;
    `every_sequence` as of `held_out_text`.

    Raises:
        SpecError: the text cannot be read any more.
        StorageError: the run's prepared corpus is gone or damaged.
    """
    spec, data = target.run_spec(), target.data()
    assert spec is not None, "only a run's settings name texts"
    assert data is not None, "a run has data"
    settings = spec.evaluation
    found = text_rows(
        name,
        settings.held_out[name],
        spec.held_out_fingerprints[name],
        data=data,
        sequences=settings.held_out_sequences,
    )
    return HeldOut(
        found.rows_NL,
        found.bytes_N,
        data.tokenizer,
        every_sequence=every_sequence,
        left_out=found.notes,
        documents_N=found.documents_N,
    )
