"""Whether a sequence has the tokens that an evaluation's tasks ask for."""

from __future__ import annotations

from cola.records import FEW_SHOT_NEW_TOKENS, FEW_SHOT_TASKS
from cola.study.run import EvaluationSpec


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
