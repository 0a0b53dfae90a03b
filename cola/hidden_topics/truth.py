"""What is known of a generated corpus: the probability of its tokens, its entropy, its topics.

The forward algorithm (Rabiner, 1989, section III) over the hidden topic. A sequence may be cut
anywhere out of documents one after the other: what stood before its first token is not known.
Shapes: N sequences, L tokens, K topics, S symbols, V = S + 1 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cola.hidden_topics.documents import chosen
from cola.hidden_topics.source import END, HiddenTopics, hidden_topics
from cola.spec.data import GeneratedText

# Sequences and tokens of each that the entropy rate is measured on; they give a standard error of
# about 0.003 nats a token in about a second.
_SEQUENCES, _TOKENS = 256, 512
_FORGOTTEN = 4  # mean stays of a topic before the first measured token; chosen


@dataclass(frozen=True)
class EntropyRate:
    """Nats a token of documents with their ends, measured on `tokens` drawn ones.

    It is what a token costs, in the mean, who knows the source and all text before it.
    """

    nats: float
    standard_error: float
    tokens: int

    def __str__(self) -> str:
        return f"{self.nats:.4f} ± {self.standard_error:.4f} nats a token"


class Filter:
    """p(topic, next token | tokens so far) of N sequences, token by token."""

    def __init__(self, source: HiddenTopics, sequences: int) -> None:
        self._source = source
        end, joint_KS = source.stationary
        self._end_N = np.full(sequences, end)
        self._joint_NKS = np.broadcast_to(joint_KS, (sequences, *joint_KS.shape))
        self.topic_NK = np.full((sequences, source.topics), 1 / source.topics)

    def predicted(self) -> np.ndarray:
        """p(next token | tokens so far), (N, V)."""
        return np.concatenate([self._end_N[:, None], self._joint_NKS.sum(1)], axis=1)

    def take(self, token_N: np.ndarray) -> np.ndarray:
        """Go on by one token a sequence; p(token | tokens before it), (N,).

        `topic_NK` is then p(its topic | tokens up to it); of ends and impossible tokens any topic.
        """
        source, ended_N = self._source, token_N == END
        symbol_N = np.maximum(token_N - 1, 0)
        joint_NK = self._joint_NKS[np.arange(len(token_N)), :, symbol_N]
        probability_N = np.where(ended_N, self._end_N, joint_NK.sum(1))
        known_N = ~ended_N & (probability_N > 0)
        scale_N1 = np.where(known_N, joint_NK.sum(1), 1.0)[:, None]
        self.topic_NK = np.where(known_N[:, None], joint_NK / scale_N1, 1 / source.topics)
        moved_NK = self.topic_NK @ source.topic_KK * (1 - source.ending)
        begun_KS = source.first_KS / source.topics
        self._joint_NKS = np.where(
            ended_N[:, None, None],
            begun_KS,
            moved_NK[:, :, None] * source.next_KSS[:, symbol_N].transpose(1, 0, 2),
        )
        self._end_N = np.where(ended_N, 0.0, source.ending)
        return probability_N


def true_nll(spec: GeneratedText, tokens_NL: np.ndarray) -> np.ndarray:
    """-log p of each token given those before it in its sequence, in nats: (N, L)."""
    filtered = Filter(hidden_topics(spec), len(tokens_NL))
    with np.errstate(divide="ignore"):  # an impossible token costs infinitely much
        columns = [-np.log(filtered.take(token_N)) for token_N in tokens_NL.T]
    return np.stack(columns, axis=1)


@lru_cache(maxsize=8)
def entropy_rate(spec: GeneratedText) -> EntropyRate:
    """The entropy rate, from sequences drawn token by token from what the filter predicts.

    The mean of the predictions' entropies has the expectation of that of -log p, and a smaller
    error; the standard error is over sequences.
    """
    source = hidden_topics(spec)
    generator = np.random.default_rng([spec.seed, 2])
    filtered = Filter(source, _SEQUENCES)
    skipped = round(_FORGOTTEN * min(spec.topic_tokens, spec.document_tokens))
    total_N = np.zeros(_SEQUENCES)
    for place in range(skipped + _TOKENS):
        p_NV = filtered.predicted()
        if place >= skipped:
            total_N -= (p_NV * np.log(np.maximum(p_NV, np.finfo(float).tiny))).sum(1)
        filtered.take(chosen(p_NV.cumsum(1), generator.random(_SEQUENCES)))
    mean_N = total_N / _TOKENS
    error = float(mean_N.std(ddof=1) / _SEQUENCES**0.5)
    return EntropyRate(float(mean_N.mean()), error, _SEQUENCES * _TOKENS)


def last_topics(spec: GeneratedText, tokens_NL: np.ndarray) -> np.ndarray:
    """p(topic of the last token | all tokens): (N, K)."""
    filtered = Filter(hidden_topics(spec), len(tokens_NL))
    for token_N in tokens_NL.T:
        filtered.take(token_N)
    return filtered.topic_NK


def topics_of(spec: GeneratedText, tokens_NL: np.ndarray) -> np.ndarray:
    """p(topic of each token | all tokens of its sequence), (N, L, K); of ends any topic."""
    source = hidden_topics(spec)
    filtered = Filter(source, len(tokens_NL))
    forward = []
    for token_N in tokens_NL.T:
        filtered.take(token_N)
        forward.append(filtered.topic_NK)
    later_NK = np.ones((len(tokens_NL), source.topics))
    backward = [later_NK]
    for here_N, next_N in zip(tokens_NL.T[-2::-1], tokens_NL.T[:0:-1], strict=True):
        # An end says nothing of the topic before it, and nothing of it lies in what follows.
        says_NK = source.next_KSS[:, np.maximum(here_N - 1, 0), np.maximum(next_N - 1, 0)].T
        later_NK = (says_NK * later_NK) @ source.topic_KK.T
        scale_N1 = later_NK.sum(1, keepdims=True)
        inside_N1 = ((here_N != END) & (next_N != END))[:, None] & (scale_N1 > 0)
        later_NK = np.where(inside_N1, later_NK / np.where(scale_N1 > 0, scale_N1, 1), 1.0)
        backward.append(later_NK)
    joint_NLK = np.stack(forward, axis=1) * np.stack(backward[::-1], axis=1)
    total_NL1 = joint_NLK.sum(-1, keepdims=True)
    return np.where(
        total_NL1 > 0, joint_NLK / np.where(total_NL1 > 0, total_NL1, 1), 1 / source.topics
    )
