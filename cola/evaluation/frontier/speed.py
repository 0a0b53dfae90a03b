"""What generation costs at several batch sizes: latency, throughput and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from cola.evaluation.frontier.prompts import Prompts
from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.task import Record, TaskResult, digest_of
from cola.seeding import Stream
from cola.spec import GenerationSpec

REPEATS = 2  # chosen: after one that chooses kernels; the least counts, which others disturb least


class BatchSpeedTask:
    """Items are batch sizes: `prompts.new` tokens behind as many prompts of one length at once.

    `device`: the kind of device that it is measured on, whose numbers no other has.
    """

    name = "frontier_speed"

    def __init__(
        self, prompts: Prompts, settings: GenerationSpec, batches: Sequence[int], *, device: str
    ) -> None:
        self.settings = settings.model_copy(update={"max_new_tokens": prompts.new})
        self._batches = list(batches)
        rows_NL = prompts.texts.rows_NL[:, : prompts.prompt_tokens]
        self._rows = rows_NL.tolist()
        self.digest = digest_of(
            self.name, self.settings.canonical_json(), device, rows_NL.tobytes()
        )

    def ids(self) -> list[Id]:
        """See `Task.ids`."""
        return list(self._batches)

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        piece = self._first_piece(evaluated)
        for batch in map(int, ids):
            texts = [self._rows[place % len(self._rows)] for place in range(batch)]
            yield batch, self._measured(evaluated, texts, piece)

    @torch.no_grad()
    def _first_piece(self, evaluated: EvaluatedModel) -> int:
        """Tokens that a reader gets first: one, a block, or all where they come together."""
        pieces = evaluated.family.stream(
            evaluated.model,
            self._rows[0],
            self.settings,
            stream=Stream(0, 0, [0], device=evaluated.device),
            eos_token_id=None,
        )
        return len(next(iter(pieces)))

    @torch.no_grad()
    def _measured(
        self, evaluated: EvaluatedModel, texts: list[list[int]], piece: int
    ) -> dict[str, Any]:
        device, new = evaluated.device, self.settings.max_new_tokens

        def generate(tokens: int) -> None:
            settings = self.settings.model_copy(update={"max_new_tokens": tokens})
            stream = Stream(0, 0, range(len(texts)), device=device)
            evaluated.family.generate(
                evaluated.model, texts, settings, stream=stream, eos_token_id=None
            )

        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        whole = least_seconds(lambda: generate(new), device)
        first = whole if piece >= new else least_seconds(lambda: generate(piece), device)
        return {
            "seconds": whole,
            "tokens_per_second": len(texts) * new / whole,
            "first_tokens": piece,
            "first_tokens_seconds": first,
            "peak_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
            "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
            "threads": torch.get_num_threads(),
        }

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`: the throughput of the largest batch; details have every batch."""
        by_batch = {str(batch): dict(record) for batch, record in records.items()}
        best = max(record["tokens_per_second"] for record in by_batch.values())
        details = {"by_batch": by_batch, "generation": self.settings.model_dump()}
        return TaskResult(self.name, len(records), {"tokens_per_second": best}, details)


def least_seconds(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of the fastest repetition, after one that does not count."""
    taken = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
