"""From a record of a public data set to an item, prompted exactly as the public release does.

Every function is `(record, number) -> Item`; `number` becomes the id where records are numbered.
They raise KeyError, TypeError, ValueError or IndexError for a record that is not in the schema,
or whose true answer is held back (as in some test splits).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from cola.evaluation.few_shot import prompts
from cola.evaluation.few_shot.prompts import with_options
from cola.evaluation.items import Id, Item

Record = Mapping[str, Any]


def lambada(record: Record, number: int) -> Item:
    """`text`; the part after the last space is the answer, with any quotation mark before it."""
    prompt, answer = record["text"].rstrip().rsplit(" ", 1)
    return Item(id=number, prompt=prompt, answer=answer)


def mmlu(record: Record, number: int) -> Item:
    """`question`, `choices`, `answer` (an index)."""
    choices = list(record["choices"])
    prompt = prompts.MMLU + with_options(f"Question: {record['question']}", choices)
    return _choice_item(number, prompt, choices, truth=int(record["answer"]))


def siqa(record: Record, number: int) -> Item:
    """`question`, `answerA` to `answerC`, `label` (1 to 3); `context` is not shown."""
    return _social(record, number, str(record["question"]))


def siqa_context(record: Record, number: int) -> Item:
    """As `siqa`, with the context before the question, as the demonstrations have theirs."""
    return _social(record, number, f"{record['context']} {record['question']}")


def squad(record: Record, number: int) -> Item:
    """`id`, `context`, `question`, `answers.text`; only the first annotator's answer counts."""
    return squad_f1(record, number).model_copy(update={"answers": None})


def squad_f1(record: Record, number: int) -> Item:
    """As `squad`, with every annotator's answer."""
    answers = list(record["answers"]["text"])
    prompt = f"{prompts.SQUAD}Context: {record['context']}\nQuestion: {record['question']}\nAnswer:"
    # One paragraph has about ten questions.
    paragraph = sha256(str(record["context"]).encode()).hexdigest()[:12]
    return Item(id=record["id"], prompt=prompt, answer=answers[0], answers=answers, group=paragraph)


def story_cloze(record: Record, number: int) -> Item:
    """A story and two endings, in the organisers' schema or as `prompt`, `chosen`, `rejected`.

    The organisers': `input_sentence_1` to `_4`, `sentence_quiz1`, `sentence_quiz2`,
    `answer_right_ending` (1 or 2). The other does not say in what order the endings are shown: it
    follows from a hash of the story, so it is the same everywhere and the truth's place varies.
    """
    if "chosen" in record:
        story = record["prompt"].strip()
        choices = [record["chosen"].strip(), record["rejected"].strip()]
        truth = sha256(story.encode()).digest()[0] % 2
        if truth == 1:
            choices.reverse()
    else:
        story = " ".join(record[f"input_sentence_{place}"] for place in range(1, 5))
        choices = [record["sentence_quiz1"], record["sentence_quiz2"]]
        truth = int(record["answer_right_ending"]) - 1
    prompt = prompts.STORY_CLOZE + with_options(f"Story: {story}", choices, cue="End:")
    return _choice_item(number, prompt, choices, truth=truth)


def obqa(record: Record, number: int) -> Item:
    """`question_stem`, `choices.text`, `choices.label`, `answerKey`; the fact is not shown."""
    choices = list(record["choices"]["text"])
    prompt = prompts.OBQA + with_options(f"Question: {record['question_stem']}", choices)
    truth = list(record["choices"]["label"]).index(record["answerKey"])
    return _choice_item(number, prompt, choices, truth=truth)


def race(record: Record, number: int) -> Item:
    """`article`, `question`, `options`, `answer` (a letter)."""
    choices = list(record["options"])
    question = f"Article: {record['article']} {record['question']}\nOptions:"
    prompt = prompts.RACE + with_options(question, choices)
    return _choice_item(number, prompt, choices, truth=ord(record["answer"]) - ord("A"))


def hellaswag(record: Record, number: int) -> Item:
    """`ctx`, `endings`, `label` (an index as text); `activity_label` is not shown.

    `ctx` is taken as it is: its last, begun sentence in lower case, marks such as `[title]` kept.
    """
    choices = list(record["endings"])
    prompt = prompts.HELLASWAG + with_options(f"Context: {record['ctx']}", choices)
    return _choice_item(number, prompt, choices, truth=int(record["label"]))


def subject(record: Record) -> str:
    """MMLU's `subject`."""
    return str(record["subject"])


def article(record: Record) -> str:
    """SQuAD's `title`."""
    return str(record["title"])


def level(record: Record) -> str:
    """RACE's level of schools, which `example_id` begins with: "high" or "middle"."""
    return _letters(record["example_id"])


def source(record: Record) -> str:
    """HellaSwag's source, which `source_id` begins with: "activitynet" or "wikihow"."""
    return _letters(record["source_id"])


def _letters(identity: object) -> str:
    found = re.match(r"[^\W\d_]+", str(identity))
    if found is None:
        raise ValueError(f"{identity!r} does not begin with letters")
    return found.group()


def _social(record: Record, number: int, question: str) -> Item:
    choices = [record[f"answer{letter}"] for letter in "ABC"]
    prompt = prompts.SIQA + with_options(f"Question: {question}", choices)
    return _choice_item(number, prompt, choices, truth=int(record["label"]) - 1)


def _choice_item(number: Id, prompt: str, choices: Sequence[str], *, truth: int) -> Item:
    if not 0 <= truth < len(choices):
        raise ValueError(f"no choice number {truth} among {len(choices)}")
    return Item(id=number, prompt=prompt, answer=choices[truth], choices=list(choices))
