"""What is checked before the first run of a study starts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from cola.data import PreparedData
from cola.errors import SpecError, StorageError
from cola.files import write_atomically
from cola.held_out_sets.long_contexts import long_rows
from cola.held_out_sets.texts import check_apart, fingerprints_of, prepare_texts
from cola.study import StudySpec
from orchestration.state.paths import output_root

PROBE_BYTES = 65536  # chosen: all small files of a study's start


def check_output(study: StudySpec) -> Path:
    """The output folder, which exists and has been written to.

    Raises:
        StorageError: it cannot be written.
    """
    root = output_root(study)
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable.{os.getpid()}"
        try:
            write_atomically(probe, "x" * PROBE_BYTES)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room in it, or choose another folder" if full else "choose another folder"
        raise StorageError(
            f"output={study.output}: cannot be written ({error.strerror}); {remedy}"
        ) from None
    return root


def check_data(study: StudySpec, data: PreparedData) -> None:
    """Check that the prepared corpus fills a batch and has the validation sequences asked for.

    Raises:
        SpecError: it does not; the message has the largest value that would work.
    """
    batch = max(study.training_of(variant).batch_sequences for variant in study.families)
    validation = study.evaluation.validation_sequences
    if len(data.train) < batch:
        raise SpecError(
            f"data.corpus: holds {len(data.train)} training sequences of "
            f"{study.data.sequence_length} tokens, fewer than one batch of {batch}; give more "
            "text, a smaller training.batch_sequences or a shorter data.sequence_length"
        )
    if len(data.validation) < validation:
        raise SpecError(
            f"evaluation.validation_sequences={validation}: the validation split holds "
            f"{len(data.validation)}; lower it or raise data.validation_fraction"
        )


def held_out_texts(study: StudySpec, data: PreparedData) -> list[str]:
    """Cut the sequences of the study's further held-out texts, and those beyond the length of
    training; a sentence on what is left out.

    Raises:
        SpecError: a text cannot be read, has too little, or is what the study trains on.
    """
    settings, trained = study.evaluation, study.data.sequence_length
    texts, sequences = settings.held_out, settings.held_out_sequences
    check_apart(study.data, texts)
    found = prepare_texts(texts, fingerprints_of(texts), data=data, sequences=sequences)
    for length in settings.context_lengths:
        count = settings.context_sequences(length, trained)
        long_rows(study.data, data, length, sequences=count)
    return [note for rows in found.values() for note in rows.notes]
