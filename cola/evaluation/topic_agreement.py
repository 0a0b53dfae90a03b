"""Whether what a model writes behind a generated text is of the topic that the text ends with.

Shapes: B texts, L tokens of a prompt, N new tokens, K topics.
"""

from __future__ import annotations

import numpy as np

from cola.evaluation.clusters import clustered_mean
from cola.hidden_topics.truth import last_topics, topics_of
from cola.spec.data import GeneratedText


def topic_agreement(
    source: GeneratedText,
    prompts_BL: np.ndarray,
    made_BN: np.ndarray,
    *,
    truth_BN: np.ndarray,
    clusters_B: np.ndarray,
) -> dict[str, float]:
    """Share of texts whose new tokens are of the topic of the prompt's last token.

    Both are the most probable ones: of the prompt given the prompt alone, of the new tokens, in the
    mean over them, given themselves alone. `text_topic_agreement` is the same of the text's own
    next tokens, which may change their topic: what a perfect model reaches in the mean. The
    standard error is over clusters.
    """
    topic_B = last_topics(source, prompts_BL).argmax(1)
    agrees_B, text_agrees_B = (
        topics_of(source, tokens_BN).mean(1).argmax(1) == topic_B
        for tokens_BN in (made_BN, truth_BN)
    )
    found = clustered_mean(agrees_B.astype(float), clusters_B)
    metrics = {
        "topic_agreement": found.mean,
        "text_topic_agreement": float(text_agrees_B.mean()),
        "topic_chance": 1 / source.topics,
    }
    if not np.isnan(found.standard_error):
        metrics["topic_agreement_standard_error"] = found.standard_error
    return metrics
