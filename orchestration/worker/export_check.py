"""Whether the exported model is the one that was validated."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cola.data import PreparedData
from cola.records import EXPORTED_NLL_TOLERANCE
from orchestration.training.train_loop import TrainState
from orchestration.training.validation import ROWS_AT_ONCE, likelihood_rows

log = logging.getLogger(__name__)

# Chosen: more would keep the other workers of a wide run waiting for one worker's forward passes.
MOST_SEQUENCES = 64


@torch.no_grad()
def exported_nll_difference(
    state: TrainState, folder: Path, data: PreparedData, *, keep_alive: Callable[[], None]
) -> float | None:
    """NLL (nats/token) of the model in `folder` less that of the last validation.

    Both are means over the first `MOST_SEQUENCES` sequences of that validation, with its noise.
    None where the run was not validated after its last step by these workers, or has no NLL.
    `keep_alive` is called after every few sequences.
    """
    validation = state.validation
    if validation is None or validation.step != state.step or validation.nll is None:
        return None
    recorded = dict(sorted(validation.nll_by_sequence.items())[:MOST_SEQUENCES])
    ids, device = np.array(list(recorded)), state.engine.device
    model = state.family.load(folder).to(device).eval()
    found: dict[int, float] = {}
    for start in range(0, len(ids), ROWS_AT_ONCE):
        part = ids[start : start + ROWS_AT_ONCE]
        with state.engine.autocast():
            rows = likelihood_rows(
                state.family,
                model,
                state.run.evaluation.likelihood,
                data=data,
                ids=part,
                device=device,
            )
        keep_alive()
        found |= {sequence: row["nll"] for sequence, row in rows.items()}
    return float(np.mean([found[i] - recorded[i] for i in recorded]))


def export_problem(difference: float | None) -> str | None:
    """One sentence where the exported model is not the validated one."""
    if difference is None or abs(difference) <= EXPORTED_NLL_TOLERANCE:
        return None
    problem = (
        f"the exported model's validation NLL differs by {difference:+.4f} nats a token from the "
        "recorded one: fits and tables use the recorded one"
    )
    log.warning("%s", problem)
    return problem
