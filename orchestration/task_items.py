"""Where the items of few-shot tasks come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cola.evaluation.items import Item, read_items
from cola.evaluation.scoring import MULTIPLE_CHOICE


def items_from(folder: str | None) -> Callable[[str], Sequence[Item]]:
    """A few-shot task's items by its name: of `<folder>/<task>.jsonl`."""

    def items_of(task: str) -> Sequence[Item]:
        assert folder is not None
        return read_items(Path(folder) / f"{task}.jsonl", needs_choices=task in MULTIPLE_CHOICE)

    return items_of
