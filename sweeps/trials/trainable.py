"""A trial on Ray Tune: the process that trains its runs, or follows them, and reports evaluations.

It serves one trial after the other, so that only the first one waits for imports. Runs of one
worker train in the process itself where workers stay warm; others have workers of Ray Train's.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from cola.logs import set_up_logging
from cola.study.run import EvaluationSpec
from sweeps.trials.trial import POLL_SECONDS, TrialExecutor
from sweeps.trials.trial_spec import TrialSpec

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0  # chosen: for a step and a checkpoint, before a trial's process is given up
# Keys of a trial's configuration and of its results.
TRIAL_SPEC, STATE, OUTCOME, SPENT = "trial_spec", "trial_state", "outcome", "spent"


class SweepTrial(tune.Trainable):
    """Runs the `TrialSpec` of its configuration."""

    def setup(self, config: dict[str, Any]) -> None:
        """Start the trial."""
        set_up_logging()
        spec = TrialSpec.model_validate_json(config[TRIAL_SPEC])
        log.info("trial %d starts in this process", spec.trial)
        self._executor = TrialExecutor(spec, measure_function(spec))
        self._evaluations: deque[dict[str, float]] = deque()  # not reported yet

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial once the previous one has left this process.

        Raises:
            TimeoutError: it does not leave. Tune reports exceptions to its search, but not False.
        """
        self._executor.thread.join(PATIENCE_SECONDS)
        if self._executor.thread.is_alive():
            raise TimeoutError(f"trial {self._executor.spec.trial} has not left this process")
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next evaluation, or for the end of the trial, and return it."""
        while True:
            # In this order: what a thread that has ended leaves behind does not change any more.
            is_running = self._executor.thread.is_alive()
            outcome = self._executor.outcome()
            self._evaluations.extend(self._executor.evaluations())
            if self._evaluations:
                return {**self._evaluations.popleft(), STATE: "running"}
            if outcome is not None:
                end = {OUTCOME: outcome.model_dump_json(), SPENT: 1.0}
                return {**outcome.metrics, **end, STATE: outcome.state, "done": True}
            if not is_running:
                return {STATE: "interrupted", "done": True, SPENT: 1.0}
            self._executor.keep_alive()
            time.sleep(POLL_SECONDS)

    def cleanup(self) -> None:
        """Ask what is still running to save a checkpoint and leave: Tune has ended the trial."""
        self._executor.stop("stopped with its sweep", PATIENCE_SECONDS)


def measure_function(spec: TrialSpec) -> Callable[[Path, EvaluationSpec, bool], dict[str, float]]:
    """`measured`, or a call of it in a Ray task with the resources of one worker."""
    import ray

    if spec.in_process:
        return measured
    needs = spec.study.resources
    # Not in the placement group of this trial, which has no CPU of its own on a joined cluster.
    task = ray.remote(
        num_cpus=needs.cpus_per_worker,
        num_gpus=needs.gpus_per_worker,
        scheduling_strategy="DEFAULT",
    )(measured)

    def measure_in_task(
        run_folder: Path, settings: EvaluationSpec, likelihood: bool
    ) -> dict[str, float]:
        metrics: dict[str, float] = ray.get(task.remote(run_folder, settings, likelihood))
        return metrics

    return measure_in_task


def measured(run_folder: Path, settings: EvaluationSpec, likelihood: bool) -> dict[str, float]:
    """See `measure_inference`; a trial that measures nothing does not load torch for it."""
    from sweeps.trials.measure import measure_inference

    return measure_inference(run_folder, settings, likelihood)
