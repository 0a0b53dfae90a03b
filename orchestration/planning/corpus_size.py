"""How many training tokens a study's corpus holds: counted, declared, or estimated (torch-free)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cola.data.fingerprint import source_fingerprint
from cola.data.sources import expected_bytes
from cola.errors import SpecError
from cola.spec.data import HuggingFaceDataset
from cola.study import StudySpec

# Chosen, of English under a small BPE (larger vocabularies reach 4.5): only warnings rest on it.
BYTES_PER_TOKEN = 3.5


@dataclass(frozen=True)
class CorpusSize:
    """Training tokens of a corpus (None: unknown); `exact` is False for an estimate from bytes."""

    tokens: int | None
    exact: bool

    @property
    def sign(self) -> str:
        """'~' before a number that is estimated, else nothing."""
        return "" if self.exact else "~"


def corpus_size(study: StudySpec, cache: Path) -> CorpusSize:
    """Size of the study's corpus: counted where it is prepared, else declared or estimated."""
    meta = cache / source_fingerprint(study.data)[:24] / "meta.json"
    if meta.is_file():
        return CorpusSize(int(json.loads(meta.read_text())["train"]["tokens"]), True)
    corpus = study.data.corpus
    if isinstance(corpus, HuggingFaceDataset):
        return CorpusSize(corpus.tokens, True)
    size = expected_bytes(corpus)
    if size is None:
        return CorpusSize(None, False)
    share = 1 - study.data.validation_fraction
    return CorpusSize(round(size * share / BYTES_PER_TOKEN), False)


def check_epochs(study: StudySpec, name: str, tokens: int, *, corpus: CorpusSize) -> None:
    """Refuse a run of `tokens` that reads the corpus more often than `max_epochs`.

    An estimated size refuses nothing.

    Raises:
        SpecError: with the epochs that the run would need.
    """
    if corpus.tokens is None or not corpus.exact:
        return
    epochs = tokens / corpus.tokens
    if epochs > study.max_epochs:
        raise SpecError(
            f"max_epochs={study.max_epochs:g}: {name} would read the corpus {epochs:.1f} times "
            f"({tokens:,} tokens of {corpus.tokens:,}); allow it by max_epochs={epochs:.1f}, give "
            "more text, or lower the budget"
        )
