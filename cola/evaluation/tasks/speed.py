"""What generation costs: time for many prompts and for one, and network evaluations."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from cola.evaluation.items import Id
from cola.evaluation.models.context import fitted_prompt, room_for_prompts
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.continuations import continuations
from cola.evaluation.tasks.task import Record, TaskResult, digest_of
from cola.evaluation.tasks.token_tasks import check_prompt
from cola.families.interface.family import Family
from cola.families.registry import definition_of
from cola.seeding import Stream
from cola.spec import GenerationSpec

FIRST_TOKENS = 16  # chosen: tokens after which latency is read
REPEATS = 3  # chosen: the least of them counts, which other work on the machine disturbs least


@torch.no_grad()
def first_tokens(
    family: Family,
    model: nn.Module,
    prompt: list[int],
    *,
    settings: GenerationSpec,
    device: torch.device,
) -> tuple[int, float]:
    """Tokens of a continuation's first pieces, at least `FIRST_TOKENS` where it has as many, and
    the seconds until they are made."""
    began, made = time.perf_counter(), 0
    stream = Stream(0, 0, [0], device=device)
    for piece in family.stream(model, prompt, settings, stream=stream, eos_token_id=None):
        made += len(piece)
        if made >= FIRST_TOKENS:
            break
    return made, time.perf_counter() - began


class SpeedTask:
    """One item, measured at once: `max_new_tokens` tokens behind each of the held-out prompts.

    Time is the machine's, and other work on it is in the figures; network evaluations are not
    measured but follow from the settings (see `Family.generation_evaluations`).
    """

    name = "speed"

    def __init__(self, rows_NL: np.ndarray, prompt_tokens: int, settings: GenerationSpec) -> None:
        check_prompt(rows_NL, prompt_tokens)
        self._prompts: dict[Id, list[int]] = {
            index: row[:prompt_tokens].tolist() for index, row in enumerate(rows_NL)
        }
        self._cut = prompt_tokens
        new = min(settings.max_new_tokens, rows_NL.shape[1] - prompt_tokens)
        self.settings = settings.model_copy(update={"max_new_tokens": new})
        self.digest = digest_of(
            self.name, self.settings.canonical_json(), prompt_tokens, rows_NL.tobytes()
        )

    def ids(self) -> list[Id]:
        """See `Task.ids`."""
        return ["speed"]

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        for item in ids:
            latency = min(self._latency(evaluated) for _ in range(REPEATS))
            began = time.perf_counter()
            made = continuations(
                evaluated, self._prompts, self.settings, seed=0, rows=rows, ends_at_eos=False
            )
            tokens = sum(len(found.tokens) for _, found in made)
            seconds = time.perf_counter() - began
            evaluations = evaluated.family.generation_evaluations(
                evaluated.model, self.settings, self._cut
            )
            yield (
                item,
                {
                    "tokens_per_second": tokens / seconds,
                    "first_tokens_seconds": latency,
                    "function_evaluations_per_token": evaluations / self.settings.max_new_tokens,
                    "flops_per_token": self._flops(evaluated, rows),
                    "rows": rows,
                    "device": str(evaluated.device),
                    "threads": torch.get_num_threads(),
                },
            )

    def _flops(self, evaluated: EvaluatedModel, rows: int) -> float | None:
        """Executed FLOPs of a new token, the prompt's part included; None: not known."""
        sizes = evaluated.family.sizes_of(evaluated.model)
        if sizes is None:
            return None
        room = room_for_prompts(evaluated.context, self.settings)
        prompt = self._cut if room is None else min(self._cut, room)
        definition = definition_of(evaluated.family.name)
        batch = min(rows, len(self._prompts))
        return definition.generation_flops_per_token(
            sizes, self.settings, prompt, batch=batch
        ).total

    def _latency(self, evaluated: EvaluatedModel) -> float:
        room = room_for_prompts(evaluated.context, self.settings)
        prompt, _ = fitted_prompt(self._prompts[0], room)
        family, model, device = evaluated.family, evaluated.model, evaluated.device
        return first_tokens(family, model, prompt, settings=self.settings, device=device)[1]

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`: tokens/s over all prompts, seconds to the first tokens of one
        continuation (the least of three), network evaluations and FLOPs a new token: of
        evaluations of different networks, only FLOPs compare."""
        (record,) = records.values()
        names = ["tokens_per_second", "first_tokens_seconds", "function_evaluations_per_token"]
        if record.get("flops_per_token") is not None:
            names.append("flops_per_token")
        details = {name: record[name] for name in ("rows", "device", "threads")} | {
            "prompts": len(self._prompts),
            "prompt_tokens": self._cut,
            "first_tokens": FIRST_TOKENS,
            "generation": self.settings.model_dump(),
        }
        return TaskResult(self.name, 1, {name: record[name] for name in names}, details)
