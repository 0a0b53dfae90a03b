"""Texts from nothing: how various they are, and how like held-out text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cola.data import TextTokenizer
from cola.evaluation.items import Id
from cola.evaluation.mauve import COMPARABLE, LEAST, mauve, of_halves
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.models.features import FeatureModel
from cola.evaluation.models.judge import Reference
from cola.evaluation.statistics import distinct, repetition
from cola.evaluation.tasks.continuations import continuations
from cola.evaluation.tasks.task import Record, TaskResult, digest_of
from cola.spec import GenerationSpec

GRAMS = (1, 2, 4)


@dataclass(frozen=True)
class Judges:
    """Who judges texts, opened when needed: a `reference` by its likelihood and, by its hidden
    states or those of the model `features`, MAUVE. `texts`: how many are judged, at most (None: one
    a held-out sequence)."""

    reference: Callable[[], Reference] | None = None
    features: Callable[[], FeatureModel] | None = None
    texts: int | None = None

    @property
    def any(self) -> bool:
        """Whether there is a judge."""
        return self.reference is not None or self.features is not None


NO_JUDGES = Judges()


class UnconditionalTask:
    """Texts of `max_new_tokens` tokens behind the empty prompt, beside the same numbers of as many
    pieces of that length of the held-out sequences rows_NL: the beginnings of all of them first.

    They are drawn from the model as it is, in every family (`GenerationSpec.ancestral`): steps and
    solver of a flow are all that counts of the settings.
    """

    name = "unconditional"

    def __init__(
        self,
        rows_NL: np.ndarray,
        tokenizer: TextTokenizer,
        settings: GenerationSpec,
        *,
        seed: int,
        judges: Judges = NO_JUDGES,
    ) -> None:
        new = new_tokens(settings, rows_NL.shape[1])
        self.settings = settings.ancestral().model_copy(update={"max_new_tokens": new})
        self._pieces, self._judges = pieces(rows_NL, new, judges.texts), judges
        self._tokenizer, self._seed = tokenizer, seed
        self.digest = digest_of(self.name, self.settings.canonical_json(), seed, len(self._pieces))

    def ids(self) -> list[Id]:
        """See `Task.ids`: as many texts as there are pieces of held-out text."""
        return list(range(len(self._pieces)))

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        prompts: dict[Id, list[int]] = {item: [] for item in ids}
        made = continuations(
            evaluated, prompts, self.settings, seed=self._seed, rows=rows, ends_at_eos=False
        )
        for item, found in made:
            yield item, {"tokens": found.tokens, "generation": found.text}

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`.

        Metrics: distinct-n and repetition-n of the texts, with a reference also
        `reference_nats_per_token` (its exponential is the generative perplexity) and `mauve`
        (0 to 1, 1 is alike) with its standard error. Details: the same of the held-out pieces,
        whose MAUVE is of one half of them against the other.
        """
        held_out = self._pieces.tolist()
        metrics = variety([record["tokens"] for record in records.values()])
        baseline = variety(held_out)
        details: dict[str, Any] = {"generation": self.settings.model_dump()}
        texts = [text for record in records.values() if (text := record["generation"].strip())]
        natural = [text for row in held_out if (text := self._tokenizer.decode(row).strip())]
        if self._judges.any:
            details |= {"texts_judged": len(texts), "texts_empty": len(records) - len(texts)}
        if self._judges.any and texts and natural:
            judged = self._judged(texts, natural)
            metrics |= judged.metrics
            baseline |= judged.baseline
            details |= judged.details
        return TaskResult(self.name, len(records), metrics, details | {"held_out": baseline})

    def _judged(self, texts: Sequence[str], natural: Sequence[str]) -> JudgedTexts:
        """What reference and feature model say of generated and of natural texts."""
        found = JudgedTexts()
        generated_Nd = real_Nd = np.zeros((0, 0))
        if self._judges.reference is not None:
            reference = self._judges.reference()
            generated, real = reference.judge(texts), reference.judge(natural)
            generated_Nd, real_Nd = generated.features_Nd, real.features_Nd
            found.metrics["reference_nats_per_token"] = generated.nats_per_token
            found.baseline["reference_nats_per_token"] = real.nats_per_token
            found.details |= {"reference": reference.name, "mauve_features": reference.name}
        if self._judges.features is not None:
            model = self._judges.features()
            generated_Nd, real_Nd = model.features(texts), model.features(natural)
            found.details["mauve_features"] = model.name
        found.add_mauve(generated_Nd, real_Nd)
        return found


@dataclass
class JudgedTexts:
    """What judges say: of generated texts, of natural ones, and about both."""

    metrics: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def add_mauve(self, generated_Nd: np.ndarray, real_Nd: np.ndarray) -> None:
        """MAUVE with its interval, or why there is none."""
        texts = min(len(generated_Nd), len(real_Nd))
        if texts < LEAST:
            self.details["mauve_absent"] = (
                f"there are {texts} texts; it needs {LEAST}, and {COMPARABLE:,} to be compared"
            )
            return
        found, halves = mauve(generated_Nd, real_Nd), of_halves(real_Nd)
        self.metrics |= {"mauve": found.value, "mauve_standard_error": found.standard_error}
        self.details["mauve"] = found.as_json() | {"note": found.note}
        if halves is not None:
            self.baseline |= {"mauve": halves.value, "mauve_standard_error": halves.standard_error}


def new_tokens(settings: GenerationSpec, length: int) -> int:
    """Tokens of a text beside sequences of `length` tokens."""
    return min(settings.max_new_tokens, length - 1)


def pieces(rows_NL: np.ndarray, length: int, count: int | None) -> np.ndarray:
    """The first `count` pieces of this length of sequences (None: one of each), the beginnings of
    all sequences first."""
    turns = max(1, rows_NL.shape[1] // length)
    found = [rows_NL[:, turn * length : (turn + 1) * length] for turn in range(turns)]
    return np.concatenate(found)[: len(rows_NL) if count is None else count]


def variety(texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """distinct-n over all texts and repetition-n within each."""
    return {f"distinct_{n}": distinct(texts, n) for n in GRAMS} | {
        f"repetition_{n}": repetition(texts, n) for n in GRAMS
    }
