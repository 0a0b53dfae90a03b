"""Continuous batching: a row whose continuation has ended is given to a waiting prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cola.seeding import Stream

Ended = Callable[[list[int]], bool]
Generate = Callable[[list[list[int]], Stream], list[list[int]]]


@dataclass(frozen=True)
class Stop:
    """Where a continuation ends: at `max_new_tokens`, at EOS, or where `ended` returns True."""

    max_new_tokens: int
    eos_token_id: int | None
    ended: Ended | None = None

    def is_last(self, generated: list[int]) -> bool:
        """Whether generation stops after the latest of these tokens (at least one)."""
        if len(generated) >= self.max_new_tokens or generated[-1] == self.eos_token_id:
            return True
        return self.ended is not None and self.ended(generated)


class Sample:
    """One prompt in work: its generated tokens and its own random numbers."""

    def __init__(self, index: int, prompt: Sequence[int], stream: Stream, *, stop: Stop) -> None:
        self.index, self.prompt, self.stream = index, prompt, stream
        self.generated: list[int] = []
        self.done = False
        self._stop, self._taken = stop, 0

    @property
    def left(self) -> int:
        """Tokens that it may still have."""
        return self._stop.max_new_tokens - len(self.generated)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add generated tokens, up to the continuation's end."""
        for token in tokens:
            if self.done:
                return
            self.generated.append(token)
            self.done = self._stop.is_last(self.generated)

    def take_new_tokens(self) -> list[int]:
        """The tokens generated since the last call."""
        taken, self._taken = self._taken, len(self.generated)
        return self.generated[taken:]


class PromptQueue:
    """The prompts that wait for a free row, in order."""

    def __init__(self, prompts: Sequence[Sequence[int]], stream: Stream, stop: Stop) -> None:
        self._prompts, self._stream, self._stop = prompts, stream, stop
        self._waiting = deque(range(len(prompts)))

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, count: int) -> tuple[list[Sample], Stream]:
        """Samples of the next prompts, at most `count`, and their common stream."""
        indices = [self._waiting.popleft() for _ in range(min(count, len(self)))]
        samples = [
            Sample(index, self._prompts[index], self._stream.of([index]), stop=self._stop)
            for index in indices
        ]
        return samples, self._stream.of(indices)


def check_rows(rows: int) -> None:
    """Raise a ValueError where no prompt may be in work at once."""
    if rows < 1:
        raise ValueError(
            f"rows={rows}: generation needs at least one prompt in work; give 1 or more"
        )


def in_order(ends: Iterator[tuple[int, list[int]]]) -> list[list[int]]:
    """All continuations, in the order of their prompts."""
    return [tokens for _, tokens in sorted(ends)]


def in_chunks(
    generate: Generate,
    prompts: Sequence[list[int]],
    stream: Stream,
    *,
    rows: int,
    ended: Ended | None,
) -> Iterator[tuple[int, list[int]]]:
    """`rows` prompts at a time: (index of the prompt, its continuation), in the prompts' order."""
    check_rows(rows)
    for start in range(0, len(prompts), rows):
        indices = range(start, min(start + rows, len(prompts)))
        texts = generate([prompts[index] for index in indices], stream.of(indices))
        yield from zip(indices, (cut_where(tokens, ended) for tokens in texts), strict=True)


def cut_where(tokens: list[int], ended: Ended | None) -> list[int]:
    """The shortest prefix for which `ended` returns True; all tokens where there is none."""
    if ended is None:
        return tokens
    lengths = range(1, len(tokens))
    return next((tokens[:count] for count in lengths if ended(tokens[:count])), tokens)
