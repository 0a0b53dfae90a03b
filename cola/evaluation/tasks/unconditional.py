"""Texts from nothing: how various they are, and how like held-out text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cola.data import TextTokenizer
from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.models.judge import Judged, Reference
from cola.evaluation.statistics import distinct, repetition
from cola.evaluation.tasks.continuations import continuations
from cola.evaluation.tasks.task import Record, TaskResult, digest_of
from cola.spec import GenerationSpec

GRAMS = (1, 2, 4)
LEAST_FOR_MAUVE = 50  # below that its histogram has a handful of buckets


class UnconditionalTask:
    """Texts of `max_new_tokens` tokens behind the empty prompt, beside the same numbers of the
    held-out sequences rows_NL cut to that length.

    They are drawn from the model as it is, in every family (`GenerationSpec.ancestral`): steps and
    solver of a flow are all that counts of the settings.
    A `reference`, opened when it is needed, adds its likelihood of the texts and MAUVE (2102.01454)
    on its hidden states.
    """

    name = "unconditional"

    def __init__(
        self,
        rows_NL: np.ndarray,
        tokenizer: TextTokenizer,
        settings: GenerationSpec,
        *,
        seed: int,
        reference: Callable[[], Reference] | None = None,
    ) -> None:
        new = min(settings.max_new_tokens, rows_NL.shape[1] - 1)
        self.settings = settings.ancestral().model_copy(update={"max_new_tokens": new})
        self._rows, self._tokenizer, self._seed = rows_NL[:, :new], tokenizer, seed
        self._reference = reference
        self.digest = digest_of(self.name, self.settings.canonical_json(), seed, len(rows_NL))

    def ids(self) -> list[Id]:
        """See `Task.ids`: as many texts as there are held-out sequences."""
        return list(range(len(self._rows)))

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
        (0 to 1, 1 is alike). Details: the same of the held-out sequences.
        """
        held_out = self._rows.tolist()
        metrics = variety([record["tokens"] for record in records.values()])
        baseline = variety(held_out)
        details: dict[str, Any] = {"generation": self.settings.model_dump()}
        if self._reference is not None:
            reference = self._reference()
            texts = [text for record in records.values() if (text := record["generation"].strip())]
            natural = [text for row in held_out if (text := self._tokenizer.decode(row).strip())]
            details |= {
                "reference": reference.name,
                "texts_judged": len(texts),
                "texts_empty": len(records) - len(texts),
            }
            if texts and natural:
                generated, real = reference.judge(texts), reference.judge(natural)
                metrics["reference_nats_per_token"] = generated.nats_per_token
                baseline["reference_nats_per_token"] = real.nats_per_token
                if min(len(texts), len(natural)) >= LEAST_FOR_MAUVE:
                    metrics["mauve"] = mauve(generated, real)
        return TaskResult(self.name, len(records), metrics, details | {"held_out": baseline})


def variety(texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """distinct-n over all texts and repetition-n within each."""
    return {f"distinct_{n}": distinct(texts, n) for n in GRAMS} | {
        f"repetition_{n}": repetition(texts, n) for n in GRAMS
    }


def mauve(generated: Judged, real: Judged) -> float:
    """MAUVE of two sets of features: area under the divergence frontier, seed 25."""
    from mauve import compute_mauve

    found = compute_mauve(
        p_features=generated.features_Nd, q_features=real.features_Nd, verbose=False
    )
    return float(found.mauve)
