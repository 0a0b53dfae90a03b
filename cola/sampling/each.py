"""Continuations of many prompts, handed over as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cola.seeding import Stream

Ended = Callable[[list[int]], bool]
Generate = Callable[[list[list[int]], Stream], list[list[int]]]


def in_chunks(
    generate: Generate,
    prompts: Sequence[list[int]],
    stream: Stream,
    rows: int,
    ended: Ended | None,
) -> Iterator[tuple[int, list[int]]]:
    """`rows` prompts at a time: (index of the prompt, its continuation), in the prompts' order."""
    for start in range(0, len(prompts), rows):
        chosen = range(start, min(start + rows, len(prompts)))
        made = generate([prompts[index] for index in chosen], stream.of(chosen))
        yield from zip(chosen, (cut_where(tokens, ended) for tokens in made), strict=True)


def cut_where(tokens: list[int], ended: Ended | None) -> list[int]:
    """The tokens up to the first one with which `ended` holds."""
    if ended is None:
        return tokens
    lengths = range(1, len(tokens))
    return next((tokens[:count] for count in lengths if ended(tokens[:count])), tokens)
