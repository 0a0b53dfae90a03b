"""What a task is: items that are answered one by one, and a summary of the answers.

Items are independent of each other and of the batch that they are answered in, so that an
evaluation can be interrupted, spread over workers and resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.spec import GenerationSpec, LikelihoodSpec

Record = dict[str, Any]  # what is kept of one item, as JSON


@dataclass(frozen=True)
class TaskResult:
    """`metrics` by name: shares in 0 .. 1 (`accuracy`, its `accuracy_standard_error`, `chance`),
    chrF in 0 .. 100, likelihoods in nats and bits. `details` is everything else, as JSON.
    `per_item` is what the first metric is the mean of, where it is one of items; `clusters` has
    the document or text that an item is of, where it is known.
    """

    task: str
    items: int
    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    per_item: dict[Id, float] = field(default_factory=dict, repr=False)
    clusters: dict[Id, Id] = field(default_factory=dict, repr=False)

    def as_json(self) -> dict[str, Any]:
        """As a JSON object, without single items: their answers are kept elsewhere."""
        values = asdict(self)
        del values["per_item"], values["clusters"]
        return values


class Task(Protocol):
    """One task over fixed items."""

    name: str
    digest: str  # of everything that its answers follow from but the model; see `digest_of`

    @property
    def settings(self) -> GenerationSpec | LikelihoodSpec:
        """How text is generated, or a likelihood measured."""

    def ids(self) -> list[Id]:
        """The items, in their order."""

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """Answer these items, at most `rows` at once, in any order."""

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """The result from the records of all items."""


def digest_of(*parts: str | bytes | int) -> str:
    """A short hash of what a task is made of: equal ones have the same answers."""
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def skipped_part(skipped: int) -> list[str]:
    """What a task's digest has of first tokens that its prompts leave out: nothing of none."""
    return [f"without {skipped} first tokens"] if skipped else []


def sample_id(item: Id) -> int:
    """The number that keys an item's random draws, whatever other items are there."""
    if isinstance(item, int) and item >= 0:
        return item
    return int.from_bytes(hashlib.blake2b(str(item).encode(), digest_size=7).digest(), "little")


def document_sums(documents: Iterable[Id], *values: Iterable[float]) -> list[list[float | Id]]:
    """[document, sum of each of the values over its items] a document, in the items' order: what
    two models are compared by, document by document."""
    sums: dict[Id, list[float]] = {}
    for document, *row in zip(documents, *values, strict=True):
        before = sums.setdefault(document, [0.0] * len(row))
        sums[document] = [a + float(b) for a, b in zip(before, row, strict=True)]
    return [[document, *total] for document, total in sums.items()]
