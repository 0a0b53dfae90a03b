"""Tasks that ask for text: a prompt, a continuation, a rule that says whether it is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cola.evaluation.few_shot.answers import cut
from cola.evaluation.few_shot.definitions import Rule
from cola.evaluation.few_shot.scoring import score_items
from cola.evaluation.items import Id, Item
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.continuations import continuations, cuts_of
from cola.evaluation.tasks.task import Record, TaskResult, digest_of, skipped_part
from cola.spec import GenerationSpec


class TextTask:
    """Items with a rule of scoring (see `cola.evaluation.few_shot.definitions`).

    What comes behind the point where the scoring rules cut a generation changes nothing, so a
    continuation ends there.
    """

    def __init__(
        self,
        name: str,
        rule: Rule,
        items: Sequence[Item],
        *,
        settings: GenerationSpec,
        seed: int,
        selected: Mapping[str, Any] | None = None,
        skipped: int = 0,
    ) -> None:
        """`selected` says in the result how the items were selected; `skipped` tokens at a prompt's
        beginning are not given."""
        self._skipped = skipped
        self.name, self._rule, self._seed = name, rule, seed
        self._selected = {} if selected is None else {"selection": dict(selected)}
        self._items = {item.id: item for item in items}
        self.settings = settings
        asked = (part for item in items for part in (item.id, item.prompt))
        self.digest = digest_of(
            name, settings.canonical_json(), seed, *asked, *skipped_part(skipped)
        )

    def ids(self) -> list[Id]:
        """See `Task.ids`."""
        return list(self._items)

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        encode = evaluated.tokenizer.encode
        prompts = {item: encode(self._items[item].prompt)[self._skipped :] for item in ids}
        made = continuations(
            evaluated, prompts, self.settings, seed=self._seed, rows=rows, ended=is_whole
        )
        for item, found in made:
            yield (
                item,
                {
                    "generation": found.text,
                    "new_tokens": len(found.tokens),
                    "cut_tokens": found.cut_tokens,
                    "prompt_tokens": len(prompts[item]) - found.cut_tokens,
                },
            )

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`; `details` are the score in per cent."""
        generations = {item: record["generation"] for item, record in records.items()}
        found = score_items(
            self.name, self._rule, list(self._items.values()), generations=generations
        )
        accuracy, items = found.accuracy / 100, found.items
        metrics = {
            "accuracy": accuracy,
            "accuracy_standard_error": share_error(accuracy, found.effective_items or items),
            "valid": found.valid / 100,
        }
        if found.chance is not None:
            metrics["chance"] = found.chance / 100
        if found.f1 is not None:
            metrics["f1"] = found.f1 / 100
        if found.choice_accuracy is not None:
            metrics["choice_accuracy"] = found.choice_accuracy / 100
        if found.choice_accuracy is not None and found.accuracy_given_valid is not None:
            metrics["accuracy_given_valid"] = found.accuracy_given_valid / 100
        details = found.summary() | cuts_of(records) | self._selected
        details |= {"generation": self.settings.model_dump()}
        right = {score.id: float(score.correct) for score in found.per_item}
        groups = {s.id: s.group for s in found.per_item if s.group is not None}
        return TaskResult(self.name, items, metrics, details, right, clusters=groups)


def share_error(share: float, items: float) -> float:
    """Standard error of a share of right items (Agresti and Coull): two more right and two more
    wrong ones, so that it is not 0 where none or all are right."""
    more = items + 4
    middle = (share * items + 2) / more
    return float((middle * (1 - middle) / more) ** 0.5)


def is_whole(text: str) -> bool:
    """Whether the rules would cut this generation already."""
    return cut(text) != text
