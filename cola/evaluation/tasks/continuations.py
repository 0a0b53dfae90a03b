"""Continuations of many prompts by the model under evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from cola.errors import SpecError
from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.task import sample_id
from cola.seeding import Stream
from cola.spec import GenerationSpec


@dataclass(frozen=True)
class Continuation:
    """New tokens with their text, and how many of the prompt's first tokens were left out."""

    tokens: list[int]
    text: str
    cut_tokens: int


@torch.no_grad()
def continuations(
    evaluated: EvaluatedModel,
    prompts: Mapping[Id, list[int]],
    settings: GenerationSpec,
    *,
    seed: int,
    rows: int,
    ended: Callable[[str], bool] | None = None,
    ends_at_eos: bool = True,
) -> Iterator[tuple[Id, Continuation]]:
    """Each prompt's continuation, longest prompts first, at most `rows` at once.

    A prompt that leaves no room for `max_new_tokens` in the model's context loses its first tokens.
    A continuation stops where `ended` holds of its text so far.

    Raises:
        SpecError: when the context has no room for a prompt at all.
    """
    room = room_for_prompts(evaluated.context, settings)
    cut = {item: max(0, len(tokens) - room) for item, tokens in prompts.items()} if room else {}
    # Batches of like lengths waste little on padding; the longest first show a lack of memory.
    order = sorted(prompts, key=lambda item: len(prompts[item]), reverse=True)
    texts = [prompts[item][cut.get(item, 0) :] for item in order]
    stream = Stream(seed, 0, [sample_id(item) for item in order], device=evaluated.device)
    decode = evaluated.tokenizer.decode
    made = evaluated.family.iter_generate(
        evaluated.model,
        texts,
        settings,
        stream=stream,
        eos_token_id=evaluated.tokenizer.eos_token_id if ends_at_eos else None,
        rows=rows,
        ended=None if ended is None else lambda tokens: ended(decode(tokens)),
    )
    for index, tokens in made:
        item = order[index]
        yield item, Continuation(tokens, decode(tokens), cut.get(item, 0))


def room_for_prompts(context: int | None, settings: GenerationSpec) -> int | None:
    """Tokens that a prompt may have; None: any number.

    Raises:
        SpecError: when there is no room for a single one.
    """
    if context is None:
        return None
    if context <= settings.max_new_tokens:
        raise SpecError(
            f"generation.max_new_tokens={settings.max_new_tokens}: leaves no room for a prompt in "
            f"the model's context of {context} tokens; choose fewer"
        )
    return context - settings.max_new_tokens
