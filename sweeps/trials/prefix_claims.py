"""Prefixes that several trials need, such as a first stage: one trains it, the others resume from
it.

The training state after a prefix is published where studies publish theirs, under the hash of all
that decides it. A claim beside it names the run that is training it and holds as long as that run's
lease.
"""

from __future__ import annotations

import logging
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
from orchestration.state.ledger import Ledger
from sweeps.space.storage import storage_errors

log = logging.getLogger(__name__)

# A claim is written before its run's lease is taken, by less than this; a chosen value.
SETTLE_SECONDS = 5.0


class PrefixClaims:
    """Claims of prefixes in an output folder, for runs whose leases `ledger` knows."""

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self._root, self._ledger = root, ledger

    def prefix_plan_of(self, run: PlannedRun) -> PrefixPlan | None:
        """The prefixes that the run resumes from, and those that it has claimed and publishes.

        None while another run trains one that it could resume from.

        Raises:
            StorageError: a claim cannot be read or written.
        """
        publishes, resumes_from = [], []
        for prefix in stage_prefixes(run.spec):
            folder = prefix.folder(self._root)
            if verify(folder) is not None:
                resumes_from.append((prefix, run.key))
            elif self._claim(folder, run.key):
                publishes.append(prefix)
            else:
                log.debug("%s: waits for prefix %s", run.name, prefix.key[:12])
                return None
        return PrefixPlan(tuple(publishes), tuple(reversed(resumes_from)))

    def _claim(self, folder: Path, run_key: str) -> bool:
        """Claim a prefix for a run; False where a run that is training has it."""
        claim = folder.with_suffix(".claim")
        with storage_errors(claim), file_lock(claim.with_suffix(".lock")):
            if claim.exists() and claim.read_text() != run_key:
                is_new = time.time() - claim.stat().st_mtime < SETTLE_SECONDS
                if is_new or self._is_held(claim.read_text()):
                    return False
            write_atomically(claim, run_key)
        log.info("%s: trains prefix %s", run_key[:12], folder.name[:12])
        return True

    def _is_held(self, run_key: str) -> bool:
        """Whether a driver keeps the run: another one, or this one itself."""
        return self._ledger.holds(run_key) or self._ledger.is_held(self._ledger.entry(run_key))


def stage_prefixes(run: RunSpec) -> Iterator[Prefix]:
    """The run's prefixes that end where a stage ends, without the whole run."""
    for step in accumulate(stage.steps for stage in run.stages[:-1]):
        yield Prefix(prefix_key(run, step), step)


def remove_prefixes(prefixes: Iterable[Prefix], root: Path) -> None:
    """Delete published states and their claims, once no run needs them any more."""
    for prefix in prefixes:
        folder = prefix.folder(root)
        shutil.rmtree(folder, ignore_errors=True)
        for suffix in (".claim", ".lock"):
            folder.with_suffix(suffix).unlink(missing_ok=True)
