"""A task's items from a local file or folder, or from its public data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cola.data.formats import COMPRESSED
from cola.errors import SpecError, one_line
from cola.evaluation.few_shot.definitions import FewShotTask, PublicDataset, task_named
from cola.evaluation.few_shot.options import check_truth
from cola.evaluation.few_shot.selection import Selection
from cola.evaluation.items import Item, read_items

EVERY = Selection()


@dataclass(frozen=True)
class Hub:
    """The task's public data set, or at `path` another in the same schema; `revision` pins it.

    Another data set's `config` is taken as given (None: its only one); what else is None is as the
    task defines it.
    """

    path: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None

    def dataset_of(self, task: FewShotTask) -> PublicDataset:
        """What is to be loaded."""
        own = task.dataset
        split = self.split or own.split
        if self.path is not None:
            return PublicDataset(self.path, self.config, split, self.revision)
        revision = self.revision or own.revision
        return PublicDataset(own.path, self.config or own.config, split, revision)


def load_items(
    task: str, source: Path | Hub, *, selection: Selection = EVERY, option: str = "--items"
) -> list[Item]:
    """The selected items in the source's order.

    A path is a JSONL file of items or a folder with `<task>.jsonl`, compressed or not. The
    release's own files number the first 1,000 records as here, but list them as eight processes
    took them (0, 8, 16, ...): the first N lines of such a file are other items than the first N
    records of the data set. Its Story Cloze is a separate selection. Generations belong to the
    items that they were made from: ids from two sources are the same items only where both read the
    same records in the same order. An item of a file is of the stratum that it names.

    Args:
        option: what the caller calls the source, for messages.

    Raises:
        SpecError: for an unknown task, a source that cannot be read, or what is malformed in it.
    """
    definition = task_named(task)
    if isinstance(source, Hub):
        return _from_hub(definition, source, selection, option=option)
    path = file_in(source, task) if source.is_dir() else source
    items = read_items(path, definition.needs_choices, definition.needs_answers, option=option)
    if definition.needs_choices:
        for item in items:
            check_truth(item, f"{option} {path}")
    chosen = selection.of([item.id for item in items], [item.stratum for item in items])
    return [items[place] for place in chosen]


def file_in(folder: Path, task: str) -> Path:
    """The folder's file of a task, compressed or not; the plain one's path where there is none."""
    plain = folder / f"{task}.jsonl"
    paths = [plain, *(folder / f"{task}.jsonl.{extension}" for extension in COMPRESSED)]
    return next((path for path in paths if path.is_file()), plain)


def _from_hub(task: FewShotTask, hub: Hub, selection: Selection, *, option: str) -> list[Item]:
    dataset = hub.dataset_of(task)
    shown = _shown(dataset)
    read = selection.limit if selection.how == "first" else None
    records = list(islice(_records(dataset, task.name, option), read))
    strata = [_stratum(task, record) for record in records]
    items = []
    for number in selection.of(range(len(records)), strata):
        record = records[number]
        try:
            item = task.item(record, task.first_number + number)
            items.append(item.model_copy(update={"stratum": strata[number]}))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SpecError(
                f"{shown}: record {number} is not what {task.name} is made of "
                f"({type(error).__name__}: {error}); its fields: {', '.join(map(str, record))}"
            ) from error
    if not items:
        raise SpecError(f"{shown}: holds no record; give another split or data set")
    return items


def _stratum(task: FewShotTask, record: Mapping[str, Any]) -> str | None:
    """The record's part of the data set; None where the task has none, or this data set does not
    say it."""
    if task.stratum is None:
        return None
    try:
        return task.stratum(record)
    except (KeyError, ValueError):
        return None


def _records(dataset: PublicDataset, task: str, option: str) -> Iterator[Mapping[str, Any]]:
    import datasets  # heavy: only where a public data set is read

    try:
        yield from datasets.load_dataset(
            dataset.path, dataset.config, split=dataset.split, revision=dataset.revision
        )
    except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as e:
        reason = one_line(e)
        raise SpecError(
            f"{_shown(dataset)}: cannot be loaded ({type(e).__name__}: {reason}); check the "
            f"network, name, config and revision, or give a folder with {task}.jsonl as {option} "
            f"(`cola items {task} --to {task}.jsonl` writes it where there is a network)"
        ) from e


def _shown(dataset: PublicDataset) -> str:
    parts = [f"split {dataset.split}"]
    if dataset.config is not None:
        parts.insert(0, f"config {dataset.config}")
    if dataset.revision is not None:
        parts.append(f"revision {dataset.revision}")
    return f"data set {dataset.path} ({', '.join(parts)})"
