"""Texts longer than a model's context: what of them the model reads.

One rule for every use of a model: the context has room for `max_new_tokens` new tokens, and what is
left of it for the given text. A prompt that is longer loses its first tokens. Of the two texts
round a gap the left one loses its first and the right one its last tokens, and each keeps at least
half of the room. How many tokens were cut is reported.
"""

from __future__ import annotations

from cola.errors import SpecError
from cola.spec import GenerationSpec


def room_for_prompts(
    context: int | None,
    settings: GenerationSpec,
    *,
    asked: str | None = None,
    remedy: str = "choose fewer",
) -> int | None:
    """Tokens that a prompt may have; None: any number.

    Raises:
        SpecError: when there is no room for a single one. `asked` begins the message (by default
            the setting and its value), `remedy` ends it.
    """
    if context is None:
        return None
    if context <= settings.max_new_tokens:
        asked = asked or f"generation.max_new_tokens={settings.max_new_tokens}:"
        raise SpecError(
            f"{asked} leaves no room for a prompt in the model's context of {context} tokens; "
            f"{remedy}"
        )
    return context - settings.max_new_tokens


def fitted_prompt(prompt: list[int], room: int | None) -> tuple[list[int], int]:
    """The last `room` tokens of a prompt, and how many were cut before them."""
    cut = 0 if room is None else max(0, len(prompt) - room)
    return prompt[cut:], cut


def fitted_gap(
    left: list[int], right: list[int], room: int | None
) -> tuple[list[int], list[int], int]:
    """What of the texts round a gap is nearest to it, and how many tokens were cut off both."""
    if room is None or len(left) + len(right) <= room:
        return left, right, 0
    kept_right = min(len(right), max(room - len(left), room // 2))
    kept_left = min(len(left), room - kept_right)
    cut = len(left) + len(right) - kept_left - kept_right
    return left[len(left) - kept_left :], right[:kept_right], cut


def cut_sentence(given: int, cut: int, context: int | None, new_tokens: int) -> str:
    """What a reader must know of a cut text of `given` tokens."""
    return (
        f"the given text has {given} tokens, of which {cut} were cut: the context of {context} "
        f"tokens less {new_tokens} new ones has room for {given - cut}"
    )
