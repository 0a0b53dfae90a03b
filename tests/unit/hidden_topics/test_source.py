"""A generated corpus' documents, and what is known of them, against enumeration and formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cola.hidden_topics.documents import documents, drawn
from cola.hidden_topics.source import END, HiddenTopics, hidden_topics
from cola.hidden_topics.truth import entropy_rate, last_topics, topics_of, true_nll
from cola.spec.data import GeneratedText

SMALL = GeneratedText(symbols=2, topics=2, topic_tokens=3, document_tokens=4, concentration=0.7)
LENGTH = 4


def states_of(source: HiddenTopics) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """(topic, token) of every state, their stationary probabilities, and the transition matrix."""
    topics, symbols = range(source.topics), range(source.tokens - 1)
    states = [(-1, END), *((k, s + 1) for k in topics for s in symbols)]
    moves = np.zeros((len(states), len(states)))
    for row, (topic, token) in enumerate(states):
        for column, (next_topic, next_token) in enumerate(states):
            if token == END:
                begins = next_token != END
                moves[row, column] = (
                    source.first_KS[next_topic, next_token - 1] / source.topics if begins else 0
                )
            elif next_token == END:
                moves[row, column] = source.ending
            else:
                moves[row, column] = (
                    (1 - source.ending)
                    * source.topic_KK[topic, next_topic]
                    * source.next_KSS[next_topic, token - 1, next_token - 1]
                )
    system = np.vstack([moves.T - np.eye(len(states)), np.ones(len(states))])
    target = np.append(np.zeros(len(states)), 1.0)
    return states, np.linalg.lstsq(system, target, rcond=None)[0], moves


def paths_of(source: HiddenTopics, tokens: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """The probability of each row of topics that these tokens may have come with, summed over."""
    states, here, moves = states_of(source)
    found = {}
    for path in itertools.product(range(len(states)), repeat=len(tokens)):
        if tuple(states[index][1] for index in path) != tokens:
            continue
        steps = [moves[a, b] for a, b in itertools.pairwise(path)]
        found[tuple(states[index][0] for index in path)] = here[path[0]] * np.prod(steps)
    return found


@pytest.fixture(scope="module")
def every_sequence() -> np.ndarray:
    return np.array(list(itertools.product(range(SMALL.symbols + 1), repeat=LENGTH)))


def test_the_forward_algorithm_sums_over_all_paths_of_topics(every_sequence: np.ndarray) -> None:
    source = hidden_topics(SMALL)
    found = np.exp(-true_nll(SMALL, every_sequence).sum(1))
    wanted = [sum(paths_of(source, tuple(row)).values()) for row in every_sequence.tolist()]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert found.sum() == pytest.approx(1.0, abs=1e-9)


def test_topics_behind_a_sequence_are_those_of_its_paths(every_sequence: np.ndarray) -> None:
    source = hidden_topics(SMALL)
    within = every_sequence[(every_sequence != END).all(1)][:6]
    found_NLK = topics_of(SMALL, within)
    for row, found_LK in zip(within.tolist(), found_NLK, strict=True):
        paths = paths_of(source, tuple(row))
        wanted_LK = np.zeros_like(found_LK)
        for path, probability in paths.items():
            for place, topic in enumerate(path):
                wanted_LK[place, topic] += probability / sum(paths.values())
        np.testing.assert_allclose(found_LK, wanted_LK, atol=1e-9)
    np.testing.assert_allclose(last_topics(SMALL, within), found_NLK[:, -1], atol=1e-12)


def test_topics_before_an_end_do_not_follow_from_what_comes_after_it() -> None:
    alone = topics_of(SMALL, np.array([[1, 2, END]]))[0, :2]
    followed = topics_of(SMALL, np.array([[1, 2, END, 2, 2, 1]]))[0, :2]
    np.testing.assert_allclose(followed, alone, atol=1e-12)


@pytest.mark.parametrize("order", [0, 1])
def test_the_entropy_of_one_topic_is_that_of_its_chain(order: int) -> None:
    """-sum pi_i P_ij ln P_ij, with the ends of documents and their first symbols."""
    spec = GeneratedText(topics=1, order=order, symbols=16, document_tokens=64)
    source, rate = hidden_topics(spec), entropy_rate(spec)
    chain_SS, first_S, end = source.next_KSS[0], source.first_KS[0], source.ending
    assert first_S @ chain_SS == pytest.approx(first_S, abs=1e-9)
    chain = first_S @ _entropy(chain_SS)
    ends = -end * np.log(end) - (1 - end) * np.log(1 - end)
    symbol = ends + (1 - end) * chain
    wanted = (64 * symbol + _entropy(first_S)) / 65  # an end is followed by a first symbol
    assert rate.nats == pytest.approx(wanted, abs=4 * rate.standard_error + 1e-9)
    assert rate.standard_error < 0.005


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def test_drawn_documents_cost_what_the_entropy_rate_says() -> None:
    """Documents one after the other are drawn by the tables, their cost is found by the filter."""
    spec = GeneratedText(symbols=8, topics=3, topic_tokens=8, document_tokens=32)
    texts = drawn(hidden_topics(spec), spec.seed, range(4000))
    stream = np.concatenate([np.append(text + 1, END) for text in texts])
    rows = stream[: len(stream) // 512 * 512].reshape(-1, 512)
    cost_N = true_nll(spec, rows)[:, 64:].mean(1)
    rate = entropy_rate(spec)
    error = np.hypot(cost_N.std() / len(cost_N) ** 0.5, rate.standard_error)
    assert rate.nats == pytest.approx(cost_N.mean(), abs=4 * error)
    assert error < 0.01
    assert len(stream) / len(texts) == pytest.approx(33, abs=4 * 32 / len(texts) ** 0.5)


def test_more_documents_begin_with_those_that_fewer_have() -> None:
    few, many = (list(documents(GeneratedText(documents=n, document_tokens=16))) for n in (3, 300))
    assert many[:3] == few
    assert len(set(many)) > 250
    other = GeneratedText(documents=3, document_tokens=16, seed=1)
    assert list(documents(other)) != few


def test_a_topic_stays_as_long_as_it_is_asked_to() -> None:
    source = hidden_topics(GeneratedText(topics=4, topic_tokens=20))
    assert 1 / (1 - np.diag(source.topic_KK)) == pytest.approx(20)
    assert source.topic_KK.sum(1) == pytest.approx(1)


def test_an_impossible_token_costs_infinitely_much_and_the_rest_is_known() -> None:
    cost = true_nll(SMALL, np.array([[END, END, 1, 1]]))
    assert np.isinf(cost[0, 1])
    assert np.isfinite(cost[0, [0, 2, 3]]).all()
