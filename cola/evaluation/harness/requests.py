"""The harness's requests: where one comes from, and what was cut of them."""

from __future__ import annotations

from dataclasses import dataclass

from lm_eval.api.instance import Instance

NO_TEMPLATE = (
    "--apply_chat_template: base models have no chat template; leave it and "
    "--fewshot_as_multiturn out"
)


@dataclass
class Cuts:
    """How many contexts, prompts and texts were longer than the model's context."""

    likelihood_contexts: int = 0
    generation_prompts: int = 0
    rolling_texts_in_windows: int = 0
    rolling_texts_beyond_length: int = 0


def item_of(request: Instance) -> str:
    """Where a request comes from, as far as the harness says."""
    task = f"task {request.task_name}, item {request.doc_id}" if request.task_name else "a request"
    return f"{task}, {request.request_type} {request.idx}"


def end_of(context: str) -> str:
    """The last characters of a context, for messages."""
    return context if len(context) <= 40 else f"...{context[-40:]}"
