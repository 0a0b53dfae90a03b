"""First stages that several trials need: trained once, taken by all others.

The training state after a first stage lies where studies publish theirs, under the hash of all that
decides it. A claim beside it says which run is training it now: it holds as long as that run does.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

from cola.files import file_lock, write_atomically
from cola.study import RunSpec
from orchestration.checkpoint.manifest import verify
from orchestration.planning.plan import PlannedRun
from orchestration.planning.shared_prefixes import Prefix, PrefixPlan, prefix_key
from orchestration.state.ledger import Ledger, lease_is_fresh

SETTLE_SECONDS = 5.0


class PrefixClaims:
    """Of the trials of an output folder."""

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self._root, self._ledger = root, ledger

    def prefix_plan_of(self, run: PlannedRun) -> PrefixPlan | None:
        """Which prefixes the run publishes and resumes from; None while another run trains one."""
        publishes, resumes_from = [], []
        for prefix in stage_prefixes(run.spec):
            folder = prefix.folder(self._root)
            if verify(folder) is not None:
                resumes_from.append((prefix, run.key))
            elif self._claimed(folder, run.key):
                publishes.append(prefix)
            else:
                return None
        return PrefixPlan(tuple(publishes), tuple(reversed(resumes_from)))

    def _claimed(self, folder: Path, run_key: str) -> bool:
        """Claim a stage for a run, unless one that is under way has it."""
        claim = folder.with_suffix(".claim")
        claim.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(claim.with_suffix(".lock")):
            if claim.exists() and claim.read_text() != run_key:
                # A claim comes before its run's lease, by less than this.
                new = time.time() - claim.stat().st_mtime < SETTLE_SECONDS
                if new or lease_is_fresh(self._ledger.entry(claim.read_text())):
                    return False
            write_atomically(claim, run_key)
        return True


def stage_prefixes(run: RunSpec) -> Iterator[Prefix]:
    """The run's states after each of its stages but the last."""
    for step in accumulate(stage.steps for stage in run.stages[:-1]):
        yield Prefix(prefix_key(run, step), step)


def remove_prefixes(published: Iterable[Prefix], root: Path) -> None:
    """Delete these states and their claims: no run needs one any more."""
    for prefix in published:
        folder = prefix.folder(root)
        shutil.rmtree(folder, ignore_errors=True)
        for suffix in (".claim", ".lock"):
            folder.with_suffix(suffix).unlink(missing_ok=True)
