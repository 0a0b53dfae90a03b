"""k-shot prompts: demonstrations of a training split in place of a task's own ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cola.errors import SpecError
from cola.evaluation.few_shot.definitions import FewShotTask, task_named
from cola.evaluation.few_shot.prompts import demonstrated
from cola.evaluation.few_shot.selection import Selection
from cola.evaluation.few_shot.sources import Hub, file_in, load_items
from cola.evaluation.items import Item

# Chosen: records of a training split that demonstrations are drawn from, of every stratum the first
# ones by the seed.
MOST_CANDIDATES = 1000


@dataclass(frozen=True)
class Shots:
    """`count` demonstrations, those of the seed: the same for all items, or for all of a stratum
    that has as many (MMLU's subjects)."""

    count: int
    seed: int

    def prompted(
        self, task: str, items: Sequence[Item], source: Path | Hub, *, option: str
    ) -> list[Item]:
        """The items with these demonstrations in place of the task's own.

        Demonstrations are read from `<task>.train.jsonl` in a folder, or from the training split of
        the public data set.

        Raises:
            SpecError: there are none to take, or too few.
        """
        definition = task_named(task)
        asked = {bare(definition, item) for item in items}
        found = self._demonstrations(definition, source, option) if self.count else []
        given = [each for each in found if bare(definition, each) not in asked]
        if len(given) < self.count:
            raise SpecError(
                f"--tasks {task}: evaluation.shots={self.count}, but {option} has {len(given)} "
                "demonstrations; give more, or fewer shots"
            )
        of_stratum = self._by_stratum(given)
        return [
            item.model_copy(
                update={
                    "prompt": prompt_of(
                        definition, item, of_stratum.get(item.stratum, of_stratum[None])
                    )
                }
            )
            for item in items
        ]

    def _demonstrations(self, task: FewShotTask, source: Path | Hub, option: str) -> list[Item]:
        """All that can be drawn, in a drawn order."""
        selection = Selection(MOST_CANDIDATES, "stratified", self.seed)
        if isinstance(source, Hub):
            if task.training is None:
                raise SpecError(
                    f"--tasks {task.name}: evaluation.shots={self.count}, but its public data set "
                    f"has no training split; give {option} with {task.name}.train.jsonl, or "
                    "shots of 0 or null"
                )
            found = load_items(
                task.name, replace(source, split=task.training), selection=selection, option=option
            )
        else:
            path = file_in(source, f"{task.name}.train")
            if not path.is_file():
                raise SpecError(
                    f"--tasks {task.name}: evaluation.shots={self.count} needs demonstrations in "
                    f"{path}; `cola items {task.name} --split {task.training or 'SPLIT'} --to "
                    f"{path}` writes some, or give shots of 0 or null"
                )
            found = load_items(task.name, path, selection=selection, option=option)
        return sorted(found, key=lambda item: selection.draw("shot", item.id))

    def _by_stratum(self, given: Sequence[Item]) -> Mapping[str | None, Sequence[Item]]:
        """By stratum the first `count` demonstrations, of strata that have as many; under None
        those of all together."""
        strata: dict[str | None, list[Item]] = {}
        for item in given:
            strata.setdefault(item.stratum, []).append(item)
        chosen = {
            name: mine[: self.count]
            for name, mine in strata.items()
            if name is not None and len(mine) >= self.count
        }
        return chosen | {None: given[: self.count]}


def prompt_of(task: FewShotTask, item: Item, shown: Sequence[Item]) -> str:
    """The item's prompt behind the task's instruction and these demonstrations."""
    pairs = [(bare(task, each), each.answer) for each in shown]
    return task.instruction + demonstrated(*pairs) + bare(task, item)


def bare(task: FewShotTask, item: Item) -> str:
    """An item's own part of its prompt, without the task's instruction and demonstrations."""
    return item.prompt.removeprefix(task.prefix).removeprefix(task.instruction)
