"""Continuations of many prompts, handed over as they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cola.seeding import Stream

Ended = Callable[[list[int]], bool]
Generate = Callable[[list[list[int]], Stream], list[list[int]]]


@dataclass(frozen=True)
class Stop:
    """Where a continuation ends: at `max_new_tokens`, at EOS, or where `ended` holds."""

    max_new_tokens: int
    eos_token_id: int | None
    ended: Ended | None = None

    def at(self, made: list[int]) -> bool:
        """Whether the last of the tokens made so far (at least one) is the last of all."""
        if len(made) >= self.max_new_tokens or made[-1] == self.eos_token_id:
            return True
        return self.ended is not None and self.ended(made)


class Sample:
    """One prompt in work: the tokens made for it, and its own random numbers."""

    def __init__(self, index: int, prompt: Sequence[int], stream: Stream, stop: Stop) -> None:
        self.index, self.prompt, self.stream = index, prompt, stream
        self.made: list[int] = []
        self.done = False
        self._stop, self._told = stop, 0

    def take(self, tokens: Sequence[int]) -> None:
        """Add new tokens as far as the continuation's end."""
        for token in tokens:
            if self.done:
                return
            self.made.append(token)
            self.done = self._stop.at(self.made)

    def news(self) -> list[int]:
        """The tokens made since the last call."""
        told, self._told = self._told, len(self.made)
        return self.made[told:]


class Queue:
    """The prompts that wait for a free row, in their order."""

    def __init__(self, prompts: Sequence[Sequence[int]], stream: Stream, stop: Stop) -> None:
        self._prompts, self._stream, self._stop = prompts, stream, stop
        self._waiting = deque(range(len(prompts)))

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, count: int) -> tuple[list[Sample], Stream]:
        """The next `count` samples, or as many as are left, and their common stream."""
        indices = [self._waiting.popleft() for _ in range(min(count, len(self)))]
        samples = [
            Sample(index, self._prompts[index], self._stream.of([index]), self._stop)
            for index in indices
        ]
        return samples, self._stream.of(indices)


def in_order(ends: Iterator[tuple[int, list[int]]]) -> list[list[int]]:
    """All continuations, those of the first prompts first."""
    return [tokens for _, tokens in sorted(ends)]


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
