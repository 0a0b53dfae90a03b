"""A family whose rows are refilled: one that has ended is given to a prompt that waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from cola.families.interface.family import Family
from cola.sampling.continuous_batching import Ended, in_order
from cola.seeding import Stream
from cola.spec import GenerationSpec

Continuations = Callable[..., Iterator[tuple[int, list[int]]]]


class RefillingFamily(Family):
    """`Family.generate` is `Family.iter_generate` with a row for every prompt."""

    # The family's sampler, with the arguments of `iter_generate`; a static method.
    continuations: ClassVar[Continuations]

    def iter_generate(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
        rows: int,
        ended: Ended | None = None,
    ) -> Iterator[tuple[int, list[int]]]:
        """See `Family.iter_generate`."""
        stop = {"eos_token_id": eos_token_id, "ended": ended}
        return self.continuations(model, prompts, settings, stream=stream, rows=rows, **stop)

    def generate(
        self,
        model: Any,
        prompts: list[list[int]],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
    ) -> list[list[int]]:
        """See `Family.generate`."""
        ends = self.iter_generate(
            model, prompts, settings, stream=stream, eos_token_id=eos_token_id, rows=len(prompts)
        )
        return in_order(ends)
