"""One study as one job against several jobs side by side, on the Slurm of `tests/cluster`.

    python -m tests.benchmarks.allocations [--jobs 8] [--runs 8] [--budget 4e11]

Both times the same runs, each alone on its node (of two, with two cores each), from the submission
to the end of the last job. A job that finds all runs taken ends at once: of eight jobs, two of
which fit, the others show what waiting in vain costs. Fails where a run is trained twice, or where
its losses differ. Needs what `make test-cluster` needs.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

from orchestration.doctor.drill_setup import drill_study
from orchestration.state.event_log import read_events
from orchestration.state.paths import RunFolder
from tests.cluster.rig import Rig, missing
from tests.undisturbed import losses_of

SECONDS = 1800.0


@dataclass(frozen=True)
class Outcome:
    """Wall seconds of all jobs together, starts of runs, jobs that trained, losses by run."""

    seconds: float
    launched: int
    trained: int
    losses: dict[str, dict[int, float]]

    def __str__(self) -> str:
        return (
            f"{self.seconds:.0f} s, {len(self.losses)} runs, {self.launched} launched, by "
            f"{self.trained} jobs"
        )


def study_file(rig: Rig, name: str, runs: int, budget: float) -> Path:
    """A study of `runs` seeds of one AR size, each of which takes a whole node."""
    values = drill_study(rig.shared / name).model_dump(mode="json")
    values |= {
        "name": name,
        "families": {"ar": {}},
        "ladder": [{"budget": budget, "core_parameters": 60_000}],
        "seeds": list(range(runs)),
        "max_epochs": 1e5,
        "resources": {"cpus_per_worker": 2},
        "checkpoint": {},
    }
    path = rig.shared / f"{name}.yaml"
    path.write_text(json.dumps(values))  # YAML too
    return path


def measure(rig: Rig, study: Path, jobs: int) -> Outcome:
    """Submit a study as `jobs` jobs and follow them to their end."""
    name, begin = study.stem, time.monotonic()
    rig.run("cola", "submit", str(study), "--cluster", "rig", "--allocations", str(jobs),
            seconds=SECONDS)  # fmt: skip
    rig.wait_for_end(name, SECONDS)
    seconds = time.monotonic() - begin
    output = rig.shared / name
    launched = [e for e in read_events(output / "studies" / name) if e["event"] == "launched"]
    folders = sorted((output / "runs").iterdir())
    losses = {folder.name: losses_of(RunFolder(folder).journal) for folder in folders}
    logs = rig.shared.glob(f"cola-jobs/{name}/*.log")
    trained = sum(": launched" in path.read_text() for path in logs)
    return Outcome(seconds, len(launched), trained, losses)


def main() -> None:
    """Measure both, print the ratio of their times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--budget", type=float, default=4e11)
    options = parser.parse_args()
    if (reason := missing()) is not None:
        parser.error(reason)
    rig = Rig()
    try:
        rig.start()
        found = {}
        for name, jobs in (("alone", 1), ("beside", options.jobs)):
            found[name] = measure(rig, study_file(rig, name, options.runs, options.budget), jobs)
            print(f"{jobs} job(s): {found[name]}", flush=True)
    finally:
        rig.stop()
    alone, beside = found["alone"], found["beside"]
    for outcome in (alone, beside):
        assert outcome.launched == len(outcome.losses) == options.runs, "a run was trained twice"
    assert alone.losses == beside.losses, "losses of a run differ"
    print(f"wall time of {options.jobs} jobs over one: {beside.seconds / alone.seconds:.2f}")


if __name__ == "__main__":
    main()
