"""How many training tokens a study's corpus holds: counted, declared, or estimated (torch-free)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from cola.data import find_prepared
from cola.data.summary import CorpusSummary, summarise, summary_in
from cola.errors import SpecError
from cola.spec.data import GeneratedPairs, GeneratedText, HuggingFaceDataset
from cola.study import StudySpec

# Chosen, of English under a small BPE (larger vocabularies reach 4.5): only warnings rest on it.
BYTES_PER_TOKEN = 3.5
# Repeats after which a repeated token is worth 1/e of a new one (arXiv 2305.16264, section 5).
REPEATS = 15.39
WORTH_SAYING = 0.95  # chosen: share of new text's worth below which epochs are warned of


@dataclass(frozen=True)
class CorpusSize:
    """Training tokens of a corpus (None: unknown); `exact` is False for an estimate from bytes.

    `summary` has its documents, and what of it is left out.
    """

    tokens: int | None
    exact: bool
    summary: CorpusSummary = field(default_factory=CorpusSummary)

    @property
    def sign(self) -> str:
        """'~' before a number that is estimated, else nothing."""
        return "" if self.exact else "~"


def corpus_size(study: StudySpec, cache: Path) -> CorpusSize:
    """Size of the study's corpus: counted where it is prepared, else declared or estimated.

    Raises:
        SpecError: a corpus that is not prepared yet cannot be read, as far as it is read here.
    """
    prepared = find_prepared(study.data, cache)
    if prepared is not None:
        meta = prepared.meta
        return CorpusSize(int(meta["train"]["tokens"]), True, summary_in(meta))
    corpus, summary = study.data.corpus, summarise(study.data)
    if isinstance(corpus, HuggingFaceDataset) and corpus.tokens is not None:
        return CorpusSize(corpus.tokens, True, summary)
    share = 1 - study.data.validation_fraction
    if isinstance(corpus, GeneratedText):
        tokens = corpus.documents * (corpus.document_tokens + 1)  # each with its end
        return CorpusSize(round(tokens * share), False, summary)
    if isinstance(corpus, GeneratedPairs):
        tokens = corpus.documents * study.data.sequence_length  # a pair a sequence
        return CorpusSize(round(tokens * share), False, summary)
    size = summary.text_bytes or summary.file_bytes
    if size is None:
        return CorpusSize(None, False, summary)
    return CorpusSize(round(size * share / BYTES_PER_TOKEN), False, summary)


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


def worth(epochs: float) -> float:
    """Epochs of new text that so many over one text are worth, by the law of repeated data:
    1 + R (1 - exp(-(epochs - 1) / R))."""
    return 1 + REPEATS * -math.expm1((1 - epochs) / REPEATS) if epochs > 1 else epochs


def repeat_cautions(name: str, epochs: float | None) -> list[str]:
    """What the epochs of a run are worth, where that is clearly less than new text."""
    if epochs is None or worth(epochs) > WORTH_SAYING * epochs:
        return []
    return [
        f"{name} reads the corpus {epochs:.1f} times, which is worth {worth(epochs):.1f} times as "
        "much new text (law of repeated data, arXiv 2305.16264): more text, or a smaller budget"
    ]
