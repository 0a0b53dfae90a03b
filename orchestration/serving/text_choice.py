"""The text of one continuation as its tokens come: what may be shown, and where it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

Decode = Callable[[Sequence[int]], str]
FinishReason = Literal["stop", "length"]


def end_of(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stops begins; None where there is none."""
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return min(found, default=None)


class TextChoice:
    """Gathers a continuation's tokens, and cuts its text before the first stop."""

    def __init__(self, decode: Decode, stops: Sequence[str], *, most: int, eos: int | None) -> None:
        """`most` new tokens end it, or EOS, or a stop in its text."""
        self._decode, self._stops, self._most, self._eos = decode, stops, most, eos
        self._given = 0  # characters that `take` has returned
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None

    def add(self, tokens: Sequence[int]) -> None:
        """Add new tokens; those behind the end are dropped."""
        for token in tokens:
            if self.finish_reason is None:
                self.tokens.append(token)
                self._end_at(token)
        self.text = self._decode(self.tokens)
        end = end_of(self.text, self._stops)
        if end is not None:
            self.text, self.finish_reason = self.text[:end], "stop"

    def _end_at(self, token: int) -> None:
        if token == self._eos:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self._most:
            self.finish_reason = "length"

    def end(self) -> None:
        """No more tokens come."""
        self.finish_reason = self.finish_reason or "stop"

    def take(self) -> str:
        """Text since the last call that later tokens change no more."""
        end = len(self.text) if self.finish_reason is not None else self._sure()
        piece = self.text[self._given : end]
        self._given = max(self._given, end)
        return piece

    def _sure(self) -> int:
        """Characters that are whole and begin no stop."""
        # A token may be part of a character.
        text = self.text.rstrip("\ufffd")
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(len(text), longest), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops if len(stop) > length):
                return len(text) - length
        return len(text)
