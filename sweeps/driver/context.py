"""What the parts of a sweep's driver share."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path

from cola.study import StudySpec
from orchestration.cluster.session import ClusterResources
from orchestration.state.event_log import EventLog
from sweeps.driver.corpora import PreparedCorpora
from sweeps.driver.progress import TrialProgress
from sweeps.driver.trial_queue import TrialQueue
from sweeps.search.trial_log import SweepLog
from sweeps.space.spec import SweepSpec
from sweeps.views.live_table import SweepView


def _driver_id() -> str:
    return uuid.uuid4().hex[:8]


@dataclass(frozen=True, kw_only=True)
class SweepContext:
    """A sweep with its base study, its folder, and what its driver writes to and asks."""

    sweep: SweepSpec
    base: StudySpec
    folder: Path
    trial_log: SweepLog
    events: EventLog
    progress: TrialProgress
    corpora: PreparedCorpora
    cluster: ClusterResources
    queue: TrialQueue | None  # of a cluster that others share
    view: SweepView
    driver: str = field(default_factory=_driver_id)  # id, by which it knows its trials' leases

    @property
    def in_process(self) -> bool:
        """Whether runs train in the process of their trial, which stays for the next trial.

        Not on a shared cluster: such a process would keep what the queue granted to one trial.
        """
        is_warm = self.sweep.warm_workers and self.queue is None
        return is_warm and self.base.resources.workers == 1
