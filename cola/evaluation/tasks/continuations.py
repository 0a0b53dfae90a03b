"""Continuations of many prompts by the model under evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from cola.evaluation.items import Id
from cola.evaluation.models.context import fitted_prompt, room_for_prompts
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.task import Record, sample_id
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

    A prompt that leaves no room for `max_new_tokens` loses its first tokens (see
    `cola.evaluation.models.context`).
    A continuation stops where `ended` holds of its text so far.

    Raises:
        SpecError: when the context has no room for a prompt at all.
    """
    room = room_for_prompts(evaluated.context, settings)
    fitted = {item: fitted_prompt(tokens, room) for item, tokens in prompts.items()}
    # Batches of like lengths waste little on padding; the longest first show a lack of memory.
    order = sorted(prompts, key=lambda item: len(prompts[item]), reverse=True)
    texts = [fitted[item][0] for item in order]
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
        yield item, Continuation(tokens, decode(tokens), fitted[item][1])


def cuts_of(records: Mapping[Id, Record]) -> dict[str, int]:
    """How many prompts were longer than their room, and how many tokens they lost in all."""
    cuts = [record.get("cut_tokens", 0) for record in records.values()]
    return {"prompts_cut": sum(cut > 0 for cut in cuts), "tokens_cut": sum(cuts)}
