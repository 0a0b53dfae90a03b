"""The parts of a benchmark, and the study of a benchmark that is given none (torch-free)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cola.errors import SpecError
from cola.families.interface.definition import FamilyDefinition
from cola.families.registry import definitions
from cola.study import StudySpec
from orchestration.planning.accelerators import accelerator_in
from orchestration.planning.plan import PlannedRun, plan_study

# Sizes and settings of a benchmark without a study, chosen: a GPU's reach from the smallest one of
# `utilization.csv` to the paper's row, a CPU's take a minute or two on two cores.
GPU_SIZES: tuple[dict[str, Any], ...] = (
    {"core_parameters": 130_000_000},
    {"core_parameters": 400_000_000},
    {"core_parameters": 1_100_000_000},
    {"row": "paper-2b"},
)
CPU_SIZES: tuple[dict[str, Any], ...] = (
    {"core_parameters": 300_000},
    {"core_parameters": 1_000_000},
)
GPU: dict[str, Any] = {
    "data": {"tokenizer": {"kind": "bpe", "vocab_size": 100_278}, "sequence_length": 512},
    "training": {"batch_sequences": 32, "precision": "bfloat16"},
    "evaluation": {"prompt_tokens": 64, "generation": {"max_new_tokens": 64, "steps": 16}},
}
CPU: dict[str, Any] = {
    "data": {"tokenizer": {"kind": "bpe", "vocab_size": 2048}, "sequence_length": 128},
    "training": {"batch_sequences": 8, "precision": "float32"},
    "evaluation": {"prompt_tokens": 32, "generation": {"max_new_tokens": 32, "steps": 16}},
}


class Measured(StrEnum):
    """Kinds of parts."""

    TRAINING = "training"
    GENERATION = "generation"


@dataclass(frozen=True)
class Part:
    """One measurement: of a run's stage in training, or of generation with `batch` prompts."""

    run: PlannedRun
    stage: str | None = None
    batch: int | None = None

    @property
    def kind(self) -> Measured:
        """What is measured of the run."""
        return Measured.GENERATION if self.stage is None else Measured.TRAINING

    @property
    def name(self) -> str:
        """For people."""
        which = f"x {self.batch}" if self.stage is None else self.stage
        return f"{self.run.variant} {self.run.core_parameters:.3g} {self.kind} {which}"

    def as_json(self) -> dict[str, Any]:
        """What is measured."""
        return {
            "what": self.kind,
            "family": self.run.spec.family,
            "variant": self.run.variant,
            "core_parameters": self.run.core_parameters,
            "total_parameters": self.run.total_parameters,
            "stage": self.stage,
            "batch": self.batch,
        }


def parts_of(
    runs: Sequence[PlannedRun], batches: Sequence[int], *, kinds: Collection[Measured]
) -> list[Part]:
    """Every stage and every batch size of each distinct model of the runs: training first, in the
    runs' order. Parts of other `kinds` are left out."""
    distinct = list(
        {(run.spec.model.content_hash(), run.spec.objective.content_hash()): run for run in runs}
        .values()
    )  # fmt: skip
    training = [Part(run, stage=stage.name) for run in distinct for stage in run.spec.stages]
    generation = [Part(run, batch=batch) for run in distinct for batch in batches]
    return [part for part in (*training, *generation) if part.kind in kinds]


def batches_in(text: str) -> list[int]:
    """Batch sizes of a text such as 1,8,32.

    Raises:
        SpecError: it has another form.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not (part.isascii() and part.isdigit() and int(part))]
    if wrong or any(int(part) > 1_000_000 for part in parts):
        raise SpecError(
            f"--batches {text}: is no list of batch sizes; write whole numbers from 1 on, as 1,8,32"
        )
    return list(dict.fromkeys(int(part) for part in parts))


def default_values(gpu: str | None) -> dict[str, Any]:
    """A study of every family of texts alone for the GPU of that name, or for one core of a CPU. No
    run of it is trained."""
    device = CPU if gpu is None else GPU
    resources = {} if gpu is None else {"gpus_per_worker": 1, "accelerator": accelerator_in(gpu)}
    return {
        "name": "benchmark",
        "families": {each.name: {} for each in definitions() if reads_texts_alone(each)},
        "ladder": [],
        "resources": resources,
        **device,
        "data": {"corpus": {"source": "python-stdlib"}, **device["data"]},
    }


def reads_texts_alone(family: FamilyDefinition) -> bool:
    """Whether the family needs no image beside a text."""
    return family.image_shape(family.settings.parse({})) is None


def default_sizes(gpu: str | None) -> Sequence[Mapping[str, Any]]:
    """The sizes of `default_values`, as a ladder has them."""
    return CPU_SIZES if gpu is None else GPU_SIZES


def planned(study: StudySpec, rungs: Collection[int] | None = None) -> list[PlannedRun]:
    """The study's runs with the first seed, of some rungs alone; its corpus is not read.

    Raises:
        SpecError: see `plan_study`; the study has no such rung.
    """
    fingerprint = None if study.tuning is not None else "random tokens"
    runs = plan_study(study.model_copy(update={"seeds": study.seeds[:1]}), fingerprint)
    if rungs is None:
        return runs
    check_rungs(rungs, 1 + max(run.rung for run in runs))
    return [run for run in runs if run.rung in rungs]


def check_rungs(rungs: Collection[int], count: int) -> None:
    """Refuse places beyond the `count` that there are.

    Raises:
        SpecError: naming the first of them.
    """
    if unknown := sorted(rung for rung in rungs if rung >= count):
        raise SpecError(f"--rungs: there is no rung {unknown[0]}; there are 0 to {count - 1}")
