"""The source of a generated corpus: its chains, and what a token follows from.

A document has a hidden topic at each symbol. The first topic is any, each as likely, and the first
symbol is of the topic's stationary distribution. Before each further symbol the document ends with
probability `ending`, else the topic may change, and the symbol is drawn by the topic's chain. Ends
of documents are tokens: 0, and symbol s is the token s + 1.
Shapes: K topics, S symbols, V = S + 1 tokens.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from cola.spec.data import GeneratedText

END = 0  # the token behind a document
ALPHABET = string.ascii_letters + string.digits + string.punctuation
_TOLERANCE, _MOST_STEPS = 1e-13, 100_000  # of stationary distributions, by iteration


@dataclass(frozen=True)
class HiddenTopics:
    """next_KSS: p(symbol | topic, symbol before it). first_KS: that of a document's first symbol.

    topic_KK: p(topic | topic before it). ending: that a symbol is a document's last one.
    """

    next_KSS: np.ndarray
    first_KS: np.ndarray
    topic_KK: np.ndarray
    ending: float

    @property
    def topics(self) -> int:
        """K."""
        return len(self.first_KS)

    @property
    def tokens(self) -> int:
        """V."""
        return self.first_KS.shape[1] + 1

    @cached_property
    def stationary(self) -> tuple[float, np.ndarray]:
        """What stands at any place of documents one after the other: the probability of an end,
        and of each topic with its symbol, (K, S), which sum to one.

        One end comes with 1 / `ending` symbols in the mean. A symbol is a document's first one with
        probability `ending`, else it follows another one.
        """
        begins_KS = self.first_KS / self.topics
        joint_KS = begins_KS
        for _ in range(_MOST_STEPS):
            moved_KS = np.einsum("ks,kj,jst->jt", joint_KS, self.topic_KK, self.next_KSS)
            new_KS = self.ending * begins_KS + (1 - self.ending) * moved_KS
            if np.abs(new_KS - joint_KS).sum() < _TOLERANCE:
                break
            joint_KS = new_KS
        end = self.ending / (1 + self.ending)
        return end, (1 - end) * joint_KS


@lru_cache(maxsize=8)
def hidden_topics(spec: GeneratedText) -> HiddenTopics:
    """The source that a specification draws its documents from."""
    generator = np.random.default_rng([spec.seed, 0])
    rows = spec.symbols if spec.order else 1
    drawn = generator.standard_gamma(spec.concentration, (spec.topics, rows, spec.symbols))
    # A row that underflows to nothing, as a tiny concentration gives, is a certain symbol.
    certain = np.eye(spec.symbols)[generator.integers(spec.symbols, size=(spec.topics, rows))]
    weights = np.where(drawn.sum(-1, keepdims=True) > 0, drawn, certain)
    next_KSS = np.broadcast_to(
        weights / weights.sum(-1, keepdims=True), (spec.topics, spec.symbols, spec.symbols)
    )
    leave = 1 / spec.topic_tokens if spec.topics > 1 else 0.0
    topic_KK = np.full((spec.topics, spec.topics), leave / max(1, spec.topics - 1))
    np.fill_diagonal(topic_KK, 1 - leave)
    first_KS = np.stack([_stationary_of(chain_SS) for chain_SS in next_KSS])
    return HiddenTopics(next_KSS, first_KS, topic_KK, 1 / spec.document_tokens)


def _stationary_of(chain_SS: np.ndarray) -> np.ndarray:
    """A stationary distribution of a chain, (S,), by steps that may stay: it may be periodic."""
    here_S = np.full(len(chain_SS), 1 / len(chain_SS))
    for _ in range(_MOST_STEPS):
        new_S = 0.5 * (here_S + here_S @ chain_SS)
        if np.abs(new_S - here_S).sum() < _TOLERANCE:
            break
        here_S = new_S
    return np.asarray(here_S / here_S.sum())
