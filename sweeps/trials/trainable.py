"""A trial on Ray Tune: a process that follows the trial's runs and tells of their evaluations.

It serves one trial after the other, so that only the first one waits for imports. Either it is the
one worker of its runs itself, or it follows workers that Ray Train starts for every run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray import tune

from cola.logs import set_up_logging
from cola.study.run import EvaluationSpec
from sweeps.trials.trial import POLL_SECONDS, TrialExecutor, TrialSpec

PATIENCE_SECONDS = 60.0
ORDER, STATE, ENDED, SPENT = "order", "trial_state", "ended", "spent"


class SweepTrial(tune.Trainable):
    """Carries out the `TrialSpec` of its configuration."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the trial."""
        set_up_logging()
        order = TrialSpec.model_validate_json(config[ORDER])
        self._work = TrialExecutor(order, measured(order))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial; the one before has ended, or its workers are about to leave.

        Raises:
            TimeoutError: they do not. Tune tells its search of what is raised, not of False.
        """
        self._work.thread.join(PATIENCE_SECONDS)
        if self._work.thread.is_alive():
            raise TimeoutError(f"trial {self._work.order.trial} has not left this process")
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next evaluation, or how the trial ended; waits for it."""
        while True:
            for found in self._work.evaluations():
                return {**found, STATE: "running"}
            ended = self._work.outcome()
            if ended is not None:
                told = {ENDED: ended.model_dump_json(), SPENT: 1.0}
                return {**ended.metrics, **told, STATE: ended.state, "done": True}
            if not self._work.thread.is_alive():
                return {STATE: "interrupted", "done": True, SPENT: 1.0}
            self._work.keep_alive()
            time.sleep(POLL_SECONDS)

    def cleanup(self) -> None:
        """The trial is over for Tune: what still runs saves a checkpoint and leaves."""
        self._work.stop("stopped with its sweep", PATIENCE_SECONDS)


def measured(order: TrialSpec) -> Any:
    """`measure`, here or as a Ray task with the resources of one of the study's workers."""
    import ray

    from sweeps.trials.measure import measure

    if order.in_process:
        return measure
    needs = order.study.resources
    task = ray.remote(num_cpus=needs.cpus_per_worker, num_gpus=needs.gpus_per_worker)(measure)

    def call(run_folder: Path, settings: EvaluationSpec, likelihood: bool) -> dict[str, float]:
        found: dict[str, float] = ray.get(task.remote(run_folder, settings, likelihood))
        return found

    return call
