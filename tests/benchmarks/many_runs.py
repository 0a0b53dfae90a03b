"""Many tiny runs through one study: what is left of each when it has ended.

    python -m tests.benchmarks.many_runs [--runs 200] [--every 10]

Every `--every` finished runs it prints, of the driver: memory, open files, threads; of the
cluster: processes and their memory, living actors, placement groups. A leak grows with the number
of runs: the last line compares the last third with the second, per run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from cola.study import StudySpec
from orchestration.doctor.fault_drill import drill_study
from orchestration.driver.progress import StudyView
from orchestration.driver.study_runner import run_study
from orchestration.state.event_log import read_events
from orchestration.state.paths import study_folder

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Sample:
    """What is in use when `finished` runs have ended (memory in MB)."""

    finished: int
    driver_mb: float
    files: int
    threads: int
    processes: int
    cluster_mb: float
    actors: int
    groups: int

    def __str__(self) -> str:
        return (
            f"{self.finished:4d} runs: driver {self.driver_mb:.0f} MB, {self.files} files, "
            f"{self.threads} threads; cluster {self.processes} processes, {self.cluster_mb:.0f} MB,"
            f" {self.actors} actors, {self.groups} placement groups"
        )


def tiny_runs(folder: Path, runs: int) -> StudySpec:
    """One AR size and budget of about twenty steps, `runs` seeds."""
    values = drill_study(folder).model_dump(mode="json")
    values |= {
        "name": "many-runs",
        "families": {"ar": {}},
        "ladder": [{"budget": 2e9, "core_parameters": 60_000}],
        "seeds": list(range(runs)),
        "resources": {},
    }
    return StudySpec.parse(values)


def sample(finished: int) -> Sample:
    """Measure now; the cluster's processes are those below this one."""
    import ray
    from ray.util.state import list_actors, list_placement_groups

    driver = psutil.Process(os.getpid())
    below = driver.children(recursive=True)
    memory = 0.0
    for child in below:
        try:
            memory += child.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            continue
    address = ray.get_runtime_context().gcs_address  # other clusters may be on this machine
    alive, there = [("state", "=", "ALIVE")], [("state", "!=", "REMOVED")]
    actors = list_actors(address=address, filters=alive, limit=10_000)
    groups = list_placement_groups(address=address, filters=there, limit=10_000)
    return Sample(
        finished,
        driver.memory_info().rss / 1e6,
        driver.num_fds(),
        driver.num_threads(),
        len(below),
        memory,
        len(actors),
        len(groups),
    )


def follow(study: StudySpec, every: int, done: threading.Event, samples: list[Sample]) -> None:
    """Print a sample whenever `every` more runs have finished."""
    due = every
    while not done.wait(POLL_SECONDS):
        events = read_events(study_folder(study))
        finished = sum(event["event"] == "finished" for event in events)
        if finished >= due:
            samples.append(sample(finished))
            print(samples[-1], flush=True)
            due = finished + every


def growth(samples: list[Sample], name: str) -> float:
    """Change a run between the middle and the last third of the samples (medians)."""
    third = max(1, len(samples) // 3)
    middle, last = samples[third : 2 * third], samples[-third:]
    runs = statistics.median(s.finished for s in last) - statistics.median(
        s.finished for s in middle
    )
    values = [statistics.median(getattr(s, name) for s in part) for part in (middle, last)]
    return float(values[1] - values[0]) / max(1.0, runs)


def main() -> None:
    """Run them all and print the growth of everything a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--every", type=int, default=10)
    given = parser.parse_args()
    samples: list[Sample] = []
    done = threading.Event()
    with tempfile.TemporaryDirectory(prefix="cola-many-") as name:
        study = tiny_runs(Path(name) / "outputs", given.runs)
        watcher = threading.Thread(target=follow, args=(study, given.every, done, samples))
        watcher.start()
        with (Path(name) / "log").open("w") as log:
            result = run_study(study, None, StudyView(Console(file=log)))
        done.set()
        watcher.join()
        events = read_events(study_folder(study))
    seconds = events[-1]["time"] - next(e["time"] for e in events if e["event"] == "launched")
    states = list(result.states.values())
    print(
        f"{states.count('finished')} of {len(states)} finished, {seconds / len(states):.1f} s each"
    )
    for what in ("driver_mb", "files", "threads", "processes", "cluster_mb", "actors", "groups"):
        print(f"growth of {what} a run: {growth(samples, what):+.3f}")


if __name__ == "__main__":
    main()
