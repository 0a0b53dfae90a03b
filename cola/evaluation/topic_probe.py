"""Whether latents hold the hidden topics of a generated text: linear probes, nearest neighbours.

Shapes: B sequences, L tokens, b blocks, d width, K topics, N blocks of all sequences, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cola.evaluation.clusters import clustered_mean
from cola.hidden_topics.truth import topics_of
from cola.objectives.diagnostics import ridge_weights
from cola.spec.data import GeneratedText

TEST_FRACTION = 0.5  # of the sequences, the last ones; chosen


def topic_probe(means_Bbd: Tensor, tokens_BL: Tensor, source: GeneratedText) -> dict[str, float]:
    """How well a block's topic is read off the mean of its latents, as shares of blocks.

    A block's topic is the most probable one given its whole sequence. `accuracy` (with its
    `standard_error` over sequences) is of a ridge regression from means to topics, fitted on the
    first sequences and scored on the last TEST_FRACTION of them; `from_tokens` is the same from how
    often each token stands in the block, and `majority` always guesses the most frequent topic.
    `neighbour`: the nearest mean of another sequence is of the same topic. Nothing of one topic.
    """
    tested = round(len(tokens_BL) * TEST_FRACTION)
    if source.topics < 2 or not 0 < tested < len(tokens_BL):
        return {}
    blocks = means_Bbd.shape[1]
    counts_BbV = token_counts(tokens_BL, blocks, source.symbols + 1)
    topic_Bb = block_topics(tokens_BL, blocks, source)
    means_Bbd = means_Bbd.double().cpu()
    right_Bb = probed(means_Bbd, topic_Bb, tested, source.topics)
    of_sequence = np.repeat(np.arange(tested), blocks)
    found = clustered_mean(right_Bb.double().flatten().numpy(), of_sequence)
    majority = (topic_Bb[-tested:] == topic_Bb[:-tested].flatten().mode().values).double().mean()
    return {
        "accuracy": found.mean,
        "standard_error": found.standard_error,
        "from_tokens": float(probed(counts_BbV, topic_Bb, tested, source.topics).double().mean()),
        "neighbour": neighbours_alike(means_Bbd, topic_Bb),
        "majority": float(majority),
    }


def block_topics(tokens_BL: Tensor, blocks: int, source: GeneratedText) -> Tensor:
    """The most probable topic of each block given its sequence, (B, b) int64."""
    topics_BLK = torch.from_numpy(topics_of(source, tokens_BL.cpu().numpy()))
    return topics_BLK.unflatten(1, (blocks, -1)).mean(2).argmax(-1)


def token_counts(tokens_BL: Tensor, blocks: int, vocabulary: int) -> Tensor:
    """How often each token stands in each block, (B, b, V) float64."""
    one_hot_BLV = F.one_hot(tokens_BL.cpu(), vocabulary).double()
    return one_hot_BLV.unflatten(1, (blocks, -1)).sum(2)


def probed(x_Bbd: Tensor, topic_Bb: Tensor, tested: int, topics: int) -> Tensor:
    """Whether each block of the last `tested` sequences is told right, (tested, b) bool."""
    x_Bbd = F.pad(x_Bbd, (0, 1), value=1.0)
    fit_x, fit_y = x_Bbd[:-tested].flatten(0, 1), topic_Bb[:-tested].flatten()
    weights_dK = ridge_weights(fit_x, fit_y, topics)
    return (x_Bbd[-tested:] @ weights_dK).argmax(-1) == topic_Bb[-tested:]


def neighbours_alike(means_Bbd: Tensor, topic_Bb: Tensor) -> float:
    """Share of blocks whose nearest mean of another sequence is of the same topic."""
    x_Nd, topic_N = means_Bbd.flatten(0, 1), topic_Bb.flatten()
    sequence_N = torch.arange(len(means_Bbd)).repeat_interleave(means_Bbd.shape[1])
    distance_NN = torch.cdist(x_Nd, x_Nd)
    distance_NN[sequence_N[:, None] == sequence_N] = torch.inf
    return float((topic_N[distance_NN.argmin(1)] == topic_N).double().mean())
