"""Held-out prompts with the text's own tokens behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cola.errors import SpecError
from cola.evaluation.tasks.predictive import PromptTexts


@dataclass(frozen=True)
class Prompts:
    """`count` beginnings of held-out sequences (rows_NL), each with the `new` tokens behind it.

    They end at multiples of `prompt_tokens`, spread over sequences first and lengths then.
    """

    texts: PromptTexts
    prompt_tokens: int
    new: int
    count: int

    @classmethod
    def of(cls, texts: PromptTexts, prompt_tokens: int, new: int, *, asked: int) -> Prompts:
        """At most `asked` prompts: as many as the text gives.

        Raises:
            SpecError: it gives none.
        """
        length = texts.rows_NL.shape[1]
        cuts = cuts_of(length, prompt_tokens, new)
        if not cuts or not len(texts.rows_NL):
            raise SpecError(
                f"generation.max_new_tokens={new} behind prompt_tokens={prompt_tokens}: a sequence "
                f"has {length} tokens; give fewer by --set"
            )
        return cls(texts, prompt_tokens, new, min(asked, len(texts.rows_NL) * len(cuts)))

    @property
    def cuts(self) -> range:
        """Where prompts end."""
        return cuts_of(self.texts.rows_NL.shape[1], self.prompt_tokens, self.new)

    def prompt(self, number: int) -> list[int]:
        """The tokens of a prompt."""
        sequence, cut = self.texts.place(number, self.cuts)
        return list(self.texts.rows_NL[sequence, :cut].tolist())

    def truth(self, number: int) -> list[int]:
        """The text's own `new` tokens behind it."""
        sequence, cut = self.texts.place(number, self.cuts)
        return list(self.texts.rows_NL[sequence, cut : cut + self.new].tolist())

    def clusters(self) -> np.ndarray:
        """The document of each prompt."""
        places = (self.texts.place(number, self.cuts)[0] for number in range(self.count))
        return np.array([self.texts.document(sequence) for sequence in places])

    def lengths(self) -> list[int]:
        """How many tokens each prompt has."""
        return [self.texts.place(number, self.cuts)[1] for number in range(self.count)]


def cuts_of(length: int, prompt_tokens: int, new: int) -> range:
    """Where prompts end in a sequence of that length, with room for `new` tokens behind them."""
    return range(prompt_tokens, length - new + 1, prompt_tokens)
