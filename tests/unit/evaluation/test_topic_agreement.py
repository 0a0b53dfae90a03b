"""Topics of what is written behind a generated text: by the text itself, and by none."""

from __future__ import annotations

import numpy as np
import pytest

from cola.evaluation.tasks.token_tasks import ContinuationTask
from cola.evaluation.topic_agreement import topic_agreement
from cola.hidden_topics.documents import drawn
from cola.hidden_topics.source import hidden_topics
from cola.spec import GenerationSpec
from cola.spec.data import GeneratedText

SOURCE = GeneratedText(document_tokens=1024, symbols=16, topics=4, topic_tokens=1e9)
PROMPT, NEW = 32, 16


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    texts = drawn(hidden_topics(SOURCE), SOURCE.seed, range(200))
    return np.stack([text[: PROMPT + NEW] + 1 for text in texts if len(text) >= PROMPT + NEW])


def found(rows: np.ndarray, made: np.ndarray) -> dict[str, float]:
    return topic_agreement(
        SOURCE,
        rows[:, :PROMPT],
        made,
        truth_BN=rows[:, PROMPT:],
        clusters_B=np.arange(len(rows)),
    )


def test_a_text_that_keeps_its_topic_agrees_with_itself(rows: np.ndarray) -> None:
    metrics = found(rows, rows[:, PROMPT:])
    assert metrics["topic_agreement"] == metrics["text_topic_agreement"] > 0.98
    assert metrics["topic_chance"] == 0.25


def test_another_texts_tokens_agree_by_chance(rows: np.ndarray) -> None:
    metrics = found(rows, np.roll(rows[:, PROMPT:], 1, axis=0))
    assert metrics["topic_agreement"] == pytest.approx(
        0.25, abs=4 * metrics["topic_agreement_standard_error"]
    )


def test_the_task_has_the_topics_of_what_was_written(rows: np.ndarray) -> None:
    task = ContinuationTask(rows, PROMPT, GenerationSpec(max_new_tokens=NEW), seed=0, source=SOURCE)
    made = np.roll(rows[:, PROMPT:], 1, axis=0)
    records = {
        item: {
            "tokens": made[item].tolist(),
            "right": (made[item] == rows[item, PROMPT:]).tolist(),
            "generation": "",
            "reference": "",
        }
        for item in task.ids()
    }
    result = task.summary(records)
    wanted = found(rows, made)
    assert {name: result.metrics[name] for name in wanted} == wanted
    plain = ContinuationTask(rows, PROMPT, GenerationSpec(max_new_tokens=NEW), seed=0)
    assert "topic_agreement" not in plain.summary(records).metrics
