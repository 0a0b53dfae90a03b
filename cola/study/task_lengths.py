"""Whether a sequence has the tokens that an evaluation's tasks ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cola.records import FEW_SHOT_NEW_TOKENS, FEW_SHOT_TASKS
from cola.study.run import EvaluationSpec

# Tasks whose prompts may be given in several lengths (`prompt_remainders`).
PROMPTED_TASKS = ("cloze", "continuation", "predictive")
PROMPT = int(EvaluationSpec.model_fields["prompt_tokens"].default)
NEW = int(EvaluationSpec.model_fields["generation"].default.max_new_tokens)


def with_fitting_lengths(values: Any) -> Any:
    """A study's plain values with a prompt and a continuation that its sequences hold, where these
    are shorter than the defaults together and the study gives none."""
    if not isinstance(values, Mapping):
        return values
    evaluation = values.get("evaluation") or {}
    generation = mapping_in(evaluation, "generation")
    length = mapping_in(values, "data").get("sequence_length")
    if not isinstance(length, int) or length >= PROMPT + NEW or not isinstance(evaluation, Mapping):
        return values
    prompt, new = evaluation.get("prompt_tokens"), generation.get("max_new_tokens")
    if prompt is None:
        longest = length // 3 if new is None else length - new
        prompt = min(PROMPT, longest)
    if new is None:
        new = min(NEW, length - prompt)
    if min(prompt, new) < 1:  # what is given does not fit, and is refused as it was given
        return values
    fitting = {"prompt_tokens": prompt, "generation": {**generation, "max_new_tokens": new}}
    return {**values, "evaluation": {**evaluation, **fitting}}


def mapping_in(values: Any, key: str) -> Mapping[str, Any]:
    """The mapping under a key; an empty one where there is none."""
    found = values.get(key) if isinstance(values, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def check_tasks_fit(evaluation: EvaluationSpec, length: int) -> None:
    """Raise a ValueError where a task asks for more tokens than a sequence has."""
    few_shot = sorted(set(evaluation.tasks) & set(FEW_SHOT_TASKS))
    if few_shot and length <= FEW_SHOT_NEW_TOKENS:
        raise ValueError(
            f"evaluation.tasks: {few_shot[0]} generates {FEW_SHOT_NEW_TOKENS} tokens, which leaves "
            f"no room for a prompt in data.sequence_length={length}; leave the task out or choose "
            "longer sequences"
        )
    prompt, gap = evaluation.prompt_tokens, evaluation.gap_tokens
    if {"continuation", "speed"} & set(evaluation.tasks) and prompt >= length:
        raise ValueError(
            f"evaluation.prompt_tokens={prompt} must be less than data.sequence_length={length} "
            "for the tasks continuation and speed"
        )
    for longer in evaluation.context_lengths:
        if longer <= length:
            raise ValueError(
                f"evaluation.context_lengths: {longer} is not above data.sequence_length={length}; "
                "it is for lengths beyond those of training"
            )
    skipped = evaluation.prompt_remainders - 1
    asked = set(PROMPTED_TASKS) & set(evaluation.tasks)
    if skipped and not asked:
        raise ValueError(
            f"evaluation.prompt_remainders={skipped + 1}: is for the tasks "
            f"{', '.join(PROMPTED_TASKS)}; name one under evaluation.tasks, or leave it out"
        )
    if skipped >= prompt and asked - {"cloze"}:
        raise ValueError(
            f"evaluation.prompt_remainders={skipped + 1}: leaves nothing of prompts of "
            f"evaluation.prompt_tokens={prompt}; give at most as many"
        )
    drawn = evaluation.predictive.tokens
    if "predictive" in evaluation.tasks and prompt + drawn > length:
        raise ValueError(
            f"evaluation.predictive.tokens={drawn} behind evaluation.prompt_tokens={prompt} must "
            f"fit data.sequence_length={length}"
        )
    if "infilling" in evaluation.tasks and max(1, prompt - gap // 2) + gap >= length:
        raise ValueError(
            f"evaluation.gap_tokens={gap}, centred behind evaluation.prompt_tokens={prompt} "
            f"tokens, must end before data.sequence_length={length}"
        )
