"""The few-shot tasks: of each its rule of scoring, its public data set and how its items are made.

Eight are the public release's; two correct one of them, under another name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cola.errors import SpecError
from cola.evaluation.few_shot import prompts
from cola.evaluation.few_shot import public_records as records
from cola.evaluation.items import Item

Rule = Literal["first_word", "leading_word", "exact_text", "multiple_choice", "any_answer"]


@dataclass(frozen=True)
class PublicDataset:
    """A data set on the Hugging Face hub; `revision` is a commit, branch or tag (None: newest)."""

    path: str
    config: str | None
    split: str
    revision: str | None = None


@dataclass(frozen=True)
class FewShotTask:
    """`rule` says when a generation is right:

    - first_word: its first word is the answer's;
    - leading_word: the letters that it begins with are the answer, but for case;
    - exact_text: its first line is the answer, but for case, punctuation and white space; whether
      it names an option is measured beside;
    - multiple_choice: the option found in it is the true one;
    - any_answer: it is one of several answers, articles left out too; and token F1.

    `item` makes an item of a record and its number; numbers begin at `first_number`, as in the
    release's files. `prefix` is what an item's prompt begins with, its own demonstrations included,
    of which `instruction` is left where others take their place; `training` is the split that
    others come from (None: the data set has none). `stratum` says of which part of the data set a
    record is, such as the subject (None: it has no parts that a selection of items should cover).
    """

    name: str
    rule: Rule
    dataset: PublicDataset
    item: Callable[[Mapping[str, Any], int], Item]
    first_number: int = 0
    prefix: str = ""
    instruction: str = ""
    training: str | None = None
    stratum: Callable[[Mapping[str, Any]], str] | None = None

    @property
    def needs_choices(self) -> bool:
        """Whether an item without choices cannot be scored."""
        return self.rule == "multiple_choice"

    @property
    def needs_answers(self) -> bool:
        """Whether an item must list every accepted answer."""
        return self.rule == "any_answer"


# allenai/social_i_qa and LSDSem/story_cloze are loading scripts, which `datasets` no longer runs;
# these hold the same records as files.
_SIQA = PublicDataset("lighteval/siqa", None, "validation")
_STORY_CLOZE = PublicDataset("lecslab/story_cloze", None, "test")
_SQUAD = PublicDataset("rajpurkar/squad", "plain_text", "validation")

_DEFINED = (
    FewShotTask(
        name="lambada",
        rule="first_word",
        dataset=PublicDataset("EleutherAI/lambada_openai", "default", "test"),
        item=records.lambada,
        first_number=1,
    ),
    FewShotTask(
        name="mmlu",
        rule="multiple_choice",
        dataset=PublicDataset("cais/mmlu", "all", "test"),
        item=records.mmlu,
        stratum=records.subject,
        prefix=prompts.MMLU,
        training="dev",
    ),
    FewShotTask(
        name="siqa",
        rule="multiple_choice",
        dataset=_SIQA,
        item=records.siqa,
        prefix=prompts.SIQA,
        training="train",
    ),
    FewShotTask(
        name="siqa_context",
        rule="multiple_choice",
        dataset=_SIQA,
        item=records.siqa_context,
        prefix=prompts.SIQA,
        training="train",
    ),
    FewShotTask(
        name="squad",
        rule="exact_text",
        dataset=_SQUAD,
        item=records.squad,
        stratum=records.article,
        prefix=prompts.SQUAD,
        training="train",
    ),
    FewShotTask(
        name="squad_f1",
        rule="any_answer",
        dataset=_SQUAD,
        item=records.squad_f1,
        stratum=records.article,
        prefix=prompts.SQUAD,
        training="train",
    ),
    FewShotTask(
        name="story_cloze",
        rule="exact_text",
        dataset=_STORY_CLOZE,
        item=records.story_cloze,
        first_number=1,
        prefix=prompts.STORY_CLOZE,
    ),
    FewShotTask(
        name="obqa",
        rule="multiple_choice",
        dataset=PublicDataset("allenai/openbookqa", "main", "test"),
        item=records.obqa,
        prefix=prompts.OBQA,
        training="train",
    ),
    FewShotTask(
        name="race",
        rule="multiple_choice",
        dataset=PublicDataset("ehovy/race", "all", "test"),
        item=records.race,
        stratum=records.level,
        prefix=prompts.RACE,
        instruction=prompts.RACE_INSTRUCTION,
        training="train",
    ),
    FewShotTask(
        name="hellaswag",
        rule="exact_text",
        dataset=PublicDataset("Rowan/hellaswag", None, "validation"),
        item=records.hellaswag,
        stratum=records.source,
        prefix=prompts.HELLASWAG,
        training="train",
    ),
)
DEFINITIONS = {task.name: task for task in sorted(_DEFINED, key=lambda task: task.name)}


def task_named(name: str) -> FewShotTask:
    """The task of that name.

    Raises:
        SpecError: when there is none.
    """
    if name not in DEFINITIONS:
        raise SpecError(f"--task {name}: unknown; valid: {', '.join(DEFINITIONS)}")
    return DEFINITIONS[name]


def shots_name(task: str, shots: int | None) -> str:
    """The name of a few-shot task's results with so many demonstrations; None: with its own."""
    return task if shots is None else f"{task}-{shots}shot"


def without_shots(name: str) -> str:
    """The task that results of `shots_name` are of."""
    return name.partition("-")[0]
