"""Peak rates and memory of accelerators, and the share of the peak that training reaches.

Torch-free. An MFU here is executed FLOPs (see `cola.compute.flops`) over the dense peak.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cola.families.registry import definition_of
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec
from orchestration.planning.units import count


@dataclass(frozen=True)
class Accelerator:
    """Dense peak FLOP/s (float32 without TF32), bytes of memory.

    `mfu` is an assumed one for what has no measurements in `utilization.csv`; None: a nearest one
    is taken from there.
    """

    float32: float
    bfloat16: float
    memory: float | None
    mfu: float | None = None

    def peak(self, precision: str) -> float:
        """Peak FLOP/s in this precision."""
        return self.bfloat16 if precision == "bfloat16" else self.float32


# Peaks and memory of GPUs are those of NVIDIA's data sheets (SXM where there is one, dense). A CPU
# is one core of a recent x86 server, with chosen rates: `orchestration.training.hardware` measured
# 75e9 to 180e9 (float32) on a shared Xeon core.
ACCELERATORS: dict[str, Accelerator] = {
    "H200": Accelerator(67e12, 989e12, 141e9),
    "H100": Accelerator(67e12, 989e12, 80e9),
    "A100": Accelerator(19.5e12, 312e12, 80e9),
    "L40S": Accelerator(91.6e12, 362e12, 48e9),
    "CPU": Accelerator(110e9, 450e9, None, 0.3),
}
# Of workers, imports and the first step: the bar of tests/benchmarks/machinery.py. A run whose
# process has trained another one needs the warm ones.
STARTUP_SECONDS, WARM_STARTUP_SECONDS = 20.0, 2.0
# Chosen: sizes this far from a measured one, and vocabularies and lengths, count as extrapolated.
NEAR_SIZE, NEAR_SHAPE = 1.25, 2.0


@dataclass(frozen=True)
class Measurement:
    """What plans take of a row of `utilization.csv`: one stage of a family in training, on random
    tokens."""

    accelerator: str
    memory: str
    torch: str
    precision: str
    compile: bool
    family: str
    stage: str
    core_parameters: float
    sequence_length: int
    vocabulary: int
    tokens_per_second: float
    mfu: float

    @property
    def conditions(self) -> str:
        """What was measured where, as one clause."""
        return (
            f"{self.accelerator} {self.memory}, torch {self.torch}, {self.precision}, "
            f"{'compiled' if self.compile else 'eager'}"
        )


@dataclass(frozen=True)
class Utilization:
    """The MFU that a stage is planned with; `basis` says where it is from.

    `extrapolated` names what of the run was not measured, in clauses.
    """

    mfu: float
    basis: str
    extrapolated: tuple[str, ...] = ()


def accelerator_name(resources: ResourcesSpec) -> str:
    """The accelerator that a plan is made for."""
    return resources.accelerator or ("H100" if resources.gpus_per_worker else "CPU")


def accelerator_in(device_name: str) -> str | None:
    """The accelerator that a device's own name contains, as "NVIDIA H100 80GB HBM3" does."""
    return next((name for name in ACCELERATORS if name in device_name), None)


def accelerator_of(resources: ResourcesSpec) -> Accelerator:
    """Rates and memory of the accelerator that a plan is made for."""
    return ACCELERATORS[accelerator_name(resources)]


def worker_flops(resources: ResourcesSpec, precision: str, mfu: float) -> float:
    """Executed FLOP/s of one worker at this MFU."""
    return accelerator_of(resources).peak(precision) * mfu * resources.units_per_worker


@cache
def measurements() -> tuple[Measurement, ...]:
    """The measurements that ship with the product."""
    path = Path(__file__).with_name("utilization.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            Measurement(
                accelerator=row["accelerator"],
                memory=row["memory"],
                torch=row["torch"],
                precision=row["precision"],
                compile=row["compile"] == "yes",
                family=row["family"],
                stage=row["stage"],
                core_parameters=float(row["core_parameters"]),
                sequence_length=int(row["sequence_length"]),
                vocabulary=int(row["vocabulary"]),
                tokens_per_second=float(row["tokens_per_second"]),
                mfu=float(row["mfu"]),
            )
            for row in csv.DictReader(file)
        )


def utilization(spec: RunSpec, resources: ResourcesSpec, stage: str) -> Utilization:
    """The MFU of a stage of a run: the one that the study gives, else that of the nearest
    measurement of the family, the stage and the size."""
    assumed = accelerator_of(resources).mfu
    if resources.mfu is not None:
        return Utilization(resources.mfu, "resources.mfu")
    if assumed is not None:
        return Utilization(assumed, f"assumed for a {accelerator_name(resources)}")
    rows, missing = nearest_rows(spec.family, stage, compiled=resources.compiles)
    core = definition_of(spec.family).parameter_counts(spec.model).core
    by_curve: dict[tuple[str, str], list[Measurement]] = {}
    for row in rows:
        by_curve.setdefault((row.family, row.stage), []).append(row)
    mfu, curve = min(
        ((mfu_at(core, curve), curve) for curve in by_curve.values()), key=lambda found: found[0]
    )
    missing += unmeasured(spec, resources, core, rows=curve)
    return Utilization(mfu, f"measured ({curve[0].conditions})", tuple(missing))


def nearest_rows(family: str, stage: str, *, compiled: bool) -> tuple[list[Measurement], list[str]]:
    """Measurements of the family, its stage and the way of execution, as far as there are any, and
    what there is none of. A family without any gets those of all others."""
    rows = list(measurements())
    missing: list[str] = []
    for kept, name in (
        ([row for row in rows if row.family == family], f"family {family}"),
        ([row for row in rows if (row.family, row.stage) == (family, stage)], f"stage {stage}"),
    ):
        if kept:
            rows = kept
        elif not missing:  # a family that was not measured has no stage either
            missing.append(name)
    kept = [row for row in rows if row.compile == compiled]
    if not kept:
        missing.append("compile" if compiled else "eager execution")
    return kept or rows, missing


def mfu_at(core: float, rows: Sequence[Measurement]) -> float:
    """MFU at this size: between measured sizes by the logarithm of the size, and above the largest
    as there.

    Below the smallest it falls with the square root of the size, a chosen rule between a constant
    share of the peak and a constant number of tokens a second: small models wait for launches.
    """
    points = sorted((row.core_parameters, row.mfu) for row in rows)
    if core <= points[0][0]:
        return points[0][1] * math.sqrt(core / points[0][0])
    for (left, low), (right, high) in itertools.pairwise(points):
        if core <= right:
            share = math.log(core / left) / math.log(right / left)
            return low + share * (high - low)
    return points[-1][1]


def unmeasured(
    spec: RunSpec, resources: ResourcesSpec, core: float, *, rows: Sequence[Measurement]
) -> list[str]:
    """What of the run lies outside of these measurements, in clauses."""
    first, name = rows[0], accelerator_name(resources)
    found = [] if name == first.accelerator else [f"accelerator {name}"]
    if spec.training.precision != first.precision:
        found.append(spec.training.precision)
    sizes = [row.core_parameters for row in rows]
    if core < min(sizes) / NEAR_SIZE:
        found.append(f"cores below {count(min(sizes))}")
    if core > max(sizes) * NEAR_SIZE:
        found.append(f"cores above {count(max(sizes))}")
    shapes = {
        "vocabulary": (spec.model.vocab_size, first.vocabulary),
        "sequence_length": (spec.data.sequence_length, first.sequence_length),
    }
    found += [
        f"{key} {ours:,} (measured: {theirs:,})"
        for key, (ours, theirs) in shapes.items()
        if not 1 / NEAR_SHAPE <= ours / theirs <= NEAR_SHAPE
    ]
    return found
