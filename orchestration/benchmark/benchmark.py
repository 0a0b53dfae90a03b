"""A benchmark: parts measured one after another, and results written as they come (torch-free)."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cola.errors import SpecError
from cola.files import storage_errors, write_atomically
from cola.study import StudySpec
from orchestration.benchmark.parts import Part, check_rungs, default_sizes, default_values, planned
from orchestration.benchmark.process import MeasuringProcess, PartError
from orchestration.benchmark.text import as_text
from orchestration.planning.plan import PlannedRun

VERSION = 1  # of benchmark.json
LONGEST = 1e6  # seconds; chosen


@dataclass(frozen=True)
class Limits:
    """Seconds: of measured steps a part, at most of a part in all, and of all parts together
    (None: no limit)."""

    measured: float = 2.0
    part: float = 300.0
    total: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no time.

        Raises:
            SpecError: naming the option.
        """
        options = {"--seconds": self.measured, "--part-limit": self.part, "--limit": self.total}
        for option, value in options.items():
            if value is not None and not 0 < value <= LONGEST:
                raise SpecError(
                    f"{option} {value:g}: is no number of seconds above 0 and up to {LONGEST:g}"
                )


@dataclass
class Benchmark:
    """What has been measured so far. `failed` and `left_out` say why of each part without a
    result; `sizes_left_out` why of each size of the default study."""

    command: str
    study: str
    machine: dict[str, Any]
    began: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    results: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    sizes_left_out: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every part has a result."""
        return not (self.failed or self.left_out)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"version": VERSION, **vars(self), "complete": self.complete}

    def save(self, folder: Path) -> None:
        """Write `benchmark.json` and `benchmark.txt`.

        Raises:
            StorageError: the folder cannot be written.
        """
        with storage_errors(folder, remedy="name another folder with --to"):
            write_atomically(folder / "benchmark.json", json.dumps(self.as_json(), indent=1) + "\n")
            write_atomically(folder / "benchmark.txt", as_text(self.as_json()))


def command_line() -> str:
    """The command as it was typed."""
    return f"cola {shlex.join(sys.argv[1:])}"


def new_folder(output: Path, study: str) -> Path:
    """`<output>/benchmarks/STUDY-TIME`."""
    return output / "benchmarks" / f"{study}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def check_device(study: StudySpec, machine: dict[str, Any]) -> None:
    """Refuse a study whose workers need a device that this machine lacks.

    Raises:
        SpecError: with the setting that changes it.
    """
    if study.resources.gpus_per_worker and machine["gpu"] is None:
        raise SpecError(
            f"resources.gpus_per_worker={study.resources.gpus_per_worker:g}: this machine has no "
            "GPU that torch can use; benchmark on a node that has one, or give "
            "--set resources.gpus_per_worker=0 --set resources.accelerator=null"
        )


def default_runs(
    machine: dict[str, Any],
    change: Callable[[dict[str, Any]], StudySpec],
    rungs: Collection[int] | None = None,
) -> tuple[list[PlannedRun], list[str]]:
    """Runs at the device's default sizes, and why of the sizes that do not fit it.

    `change` makes the study from its values. `rungs` are the places of the sizes, counted from 0.

    Raises:
        SpecError: no size fits, or there is no such size.
    """
    runs: list[PlannedRun] = []
    left_out = []
    sizes = default_sizes(machine["gpu"])
    check_rungs(rungs or (), len(sizes))
    for place, size in enumerate(sizes):
        if rungs is not None and place not in rungs:
            continue
        values = default_values(machine["gpu"])
        study = change(values | {"ladder": [{"budget": 1e24, **size}]})
        try:
            runs += planned(study)
        except SpecError as error:
            left_out.append(f"{next(iter(size.values()))}: {error}")
    if not runs:
        raise SpecError(f"no size of the benchmark fits this device: {left_out[0]}")
    return runs, left_out


def measured(
    process: MeasuringProcess,
    parts: Sequence[Part],
    found: Benchmark,
    *,
    limits: Limits,
    folder: Path,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[str]:
    """Measure the parts in order; yields a line after each, when its result has been written.

    `clock` gives seconds that grow.

    Raises:
        StorageError: the folder cannot be written.
        RunError: no measuring process starts any more.
    """
    began = clock()
    found.left_out = {part.name: "not reached" for part in parts}
    found.save(folder)
    for part in parts:
        left = None if limits.total is None else limits.total - (clock() - began)
        if left is not None and left <= 0:
            break
        limit = limits.part if left is None else min(limits.part, left)
        try:
            values = process.measure(part, seconds=limits.measured, limit=limit)
            found.results.append(part.as_json() | values)
            line = f"{values['tokens_per_second']:,.0f} tokens/s"
        except PartError as problem:
            if limits.total is not None and clock() - began >= limits.total:
                break  # the limit of all parts ended it
            found.failed[part.name] = line = str(problem)
        del found.left_out[part.name]
        found.save(folder)
        yield f"{part.name}: {line}"
    for name in found.left_out:
        found.left_out[name] = f"the time limit of {limits.total:g} s"
    found.save(folder)
