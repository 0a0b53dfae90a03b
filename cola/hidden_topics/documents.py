"""Documents of a generated corpus, each from the seed and its own number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cola.hidden_topics.source import ALPHABET, HiddenTopics, hidden_topics
from cola.spec.data import GeneratedText

_TOGETHER = 256  # documents drawn side by side: more of them take more memory and little less time
# Longer documents, one in e^16 of the longest mean length, are cut here: a piece of text is one.
MOST_SYMBOLS = 16_384


def documents(spec: GeneratedText) -> Iterator[str]:
    """The corpus' documents in their order."""
    source = hidden_topics(spec)
    letters = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)
    for first in range(0, spec.documents, _TOGETHER):
        numbers = range(first, min(first + _TOGETHER, spec.documents))
        for symbols_T in drawn(source, spec.seed, numbers):
            yield letters[symbols_T].tobytes().decode("ascii")


def drawn(source: HiddenTopics, seed: int, numbers: range) -> list[np.ndarray]:
    """The symbols (T,) of the documents of these numbers.

    A document's draws are its own: its length, and for each symbol two uniform numbers, of which
    its topic and the symbol itself follow.
    """
    generators = [np.random.default_rng([seed, 1, number]) for number in numbers]
    lengths_D = np.array([min(MOST_SYMBOLS, g.geometric(source.ending)) for g in generators])
    # The longest first: at each place the documents that still go on are the first ones.
    order_D = np.argsort(-lengths_D, kind="stable")
    uniform_DT2 = np.zeros((len(order_D), int(np.max(lengths_D)), 2))
    for row, index in enumerate(order_D):
        uniform_DT2[row, : lengths_D[index]] = generators[index].random((lengths_D[index], 2))
    symbols_DT = _walks(source, uniform_DT2, lengths_D[order_D])
    rows_D = np.argsort(order_D)
    return [symbols_DT[row, :length] for row, length in zip(rows_D, lengths_D, strict=True)]


def _walks(source: HiddenTopics, uniform_DT2: np.ndarray, lengths_D: np.ndarray) -> np.ndarray:
    """Symbols (D, T) of documents in falling order of length; behind their ends nothing is set."""
    first_KS, next_KSS = source.first_KS.cumsum(-1), source.next_KSS.cumsum(-1)
    topic_KK = source.topic_KK.cumsum(-1)
    begin_K = np.cumsum(np.full(source.topics, 1 / source.topics))
    topic_D, symbol_D = uniform_DT2[:, 0, 0], uniform_DT2[:, 0, 1]
    topics_D = chosen(np.broadcast_to(begin_K, (len(topic_D), source.topics)), topic_D)
    places = uniform_DT2.shape[1]
    symbols_DT = np.zeros((len(uniform_DT2), places), dtype=np.int64)
    symbols_DT[:, 0] = chosen(first_KS[topics_D], symbol_D)
    for place in range(1, places):
        going = int(np.searchsorted(-lengths_D, -place, side="left"))
        topic_D, symbol_D = uniform_DT2[:going, place, 0], uniform_DT2[:going, place, 1]
        topics_D = chosen(topic_KK[topics_D[:going]], topic_D)
        before_D = symbols_DT[:going, place - 1]
        symbols_DT[:going, place] = chosen(next_KSS[topics_D, before_D], symbol_D)
    return symbols_DT


def chosen(cumulative_DN: np.ndarray, uniform_D: np.ndarray) -> np.ndarray:
    """The index at which each row's cumulative weights pass its uniform number's share of them."""
    reached_D = uniform_D * cumulative_DN[:, -1]
    passed_D = (cumulative_DN <= reached_D[:, None]).sum(1)
    return np.minimum(passed_D, cumulative_DN.shape[1] - 1)
