"""Jobs that are wanted of a study or sweep: their scripts, and what tells them from others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestration.planning.units import rungs_in
from orchestration.slurm.record import LastSubmission


@dataclass(frozen=True)
class Script:
    """A batch script, how many jobs of it are wanted, and the rungs that they take alone."""

    text: str
    count: int = 1
    rungs: str | None = None

    @property
    def file(self) -> str:
        """The name of its file."""
        return "job.sh" if self.rungs is None else f"job-rungs-{self.rungs}.sh"


@dataclass(frozen=True)
class Batch:
    """Jobs that are wanted: of one script, or of one for each size of job.

    `specification` is the YAML in all of them, in which jobs side by side share out what is of the
    whole study, and `version` the digest of the whole. `insists`: fewer jobs will not do.
    """

    name: str
    scripts: Sequence[Script]
    specification: str
    version: str
    insists: bool = False
    sources: str | None = None  # the folder of those that the scripts use

    @property
    def count(self) -> int:
        """How many jobs are wanted."""
        return sum(script.count for script in self.scripts)

    def total(self, attached: int) -> int:
        """How many jobs there are then, where those by rung come beside the attached ones."""
        beside = any(script.rungs is not None for script in self.scripts)
        return self.count + (attached if beside else 0)

    @property
    def share(self) -> str:
        """The digest of what each job runs."""
        return hashlib.sha256(self.specification.encode()).hexdigest()

    def other(self, last: LastSubmission) -> str | None:
        """What jobs of the last submission run in place of this; None where it is this."""
        if last.version != self.version:
            return "another version of it"
        return None if last.sources == self.sources else "other sources of the product"

    def missing(self, active: int, taken: frozenset[int] | None) -> list[Script]:
        """The scripts that more jobs are wanted of, beside the `active` ones that wait or run.

        Of jobs by rung those are wanted whose rungs are not `taken`; None: all are.
        """
        missing = []
        for script in self.scripts:
            count = script.count
            if script.rungs is None:
                count -= active
            elif taken is None or rungs_in(script.rungs) & taken:
                count = 0
            if count > 0:
                missing.append(replace(script, count=count))
        return missing
