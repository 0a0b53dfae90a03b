"""The benchmark and --calibrate: real steps of tiny models, limits, and what has no result."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch

from cola.errors import SpecError
from cola.families.interface.family import StageModule
from cola.models import execution as blocks
from cola.spec.resources import ResourcesSpec
from cola.study import StudySpec
from orchestration.benchmark import calibrate as calibration
from orchestration.benchmark.benchmark import Benchmark, Limits, check_device, measured
from orchestration.benchmark.cli import changed_study, default_folder
from orchestration.benchmark.measure import measure
from orchestration.benchmark.parts import (
    Measured,
    Part,
    batches_in,
    default_sizes,
    default_values,
    parts_of,
    planned,
)
from orchestration.benchmark.process import PartError, describe_machine
from orchestration.benchmark.steps import MOST_MICRO_BATCHES, Execution, step_times
from orchestration.benchmark.text import as_text, training_cells
from orchestration.planning.costs import executed_flops, run_costs
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.rates import EVALUATION
from orchestration.training.engine import PassMemoryError
from orchestration.training.torch_engine import TorchEngine

CPU = torch.device("cpu")


@pytest.fixture
def runs(tiny_study: dict[str, Any]) -> list[PlannedRun]:
    return plan_study(StudySpec.parse(tiny_study))


@pytest.mark.parametrize(
    ("workers", "micro", "rows", "count"), [(1, None, 8, 1), (2, 3, 2, 2), (1, 1, 1, 8)]
)
def test_steps_have_the_runs_own_micro_batches(
    runs: list[PlannedRun], workers: int, micro: int | None, rows: int, count: int
) -> None:
    """Of a batch of 8 sequences of 32 tokens; of many micro-batches a part is measured."""
    execution = Execution(CPU, workers, micro)
    times = step_times(runs[0].spec, "train", execution, seconds=0.01)
    assert (times.micro_batch_sequences, times.accumulation) == (rows, count)
    assert times.tokens == 32 * rows * min(count, MOST_MICRO_BATCHES)
    assert times.peak_bytes is None
    assert times.seconds > 0


def test_a_calibrated_plan_has_the_measured_times(
    runs: list[PlannedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    (run,) = [run for run in runs if run.variant == "cola"]
    rates = calibration.measure_rates(run.spec, run.resources, None, seed=0)
    assert set(rates) == {"vae", "joint", EVALUATION}
    keyed = {calibration.rate_key(run.spec, run.resources, what): v for what, v in rates.items()}
    costs = run_costs(run.spec, run.resources, run.total_parameters, keep=1, rates=keyed)
    training = sum(
        flops / rates[stage.name]
        for flops, stage in zip(executed_flops(run.spec), run.spec.stages, strict=True)
    )
    assert costs.calibrated
    assert costs.seconds == pytest.approx(20 + training + 3 * rates[EVALUATION])


def test_as_many_processes_are_measured_as_would_train(tiny_study: dict[str, Any]) -> None:
    def count(runs: int, **resources: Any) -> int:
        study = StudySpec.parse(tiny_study | {"resources": resources})
        return calibration.side_by_side(study, study.resources, runs)

    cores = os.cpu_count() or 1
    assert count(100) == cores
    assert count(100, concurrent_runs=1) == 1
    assert count(1, workers=2) == min(2, cores)
    assert count(100, gpus_per_worker=0.33) == 3
    assert count(2, gpus_per_worker=0.1) == 2
    assert count(100, gpus_per_worker=1) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_plan_for_gpus_is_not_calibrated_without_one(tiny_study: dict[str, Any]) -> None:
    study = StudySpec.parse(tiny_study | {"resources": {"gpus_per_worker": 1}})
    with pytest.raises(SpecError, match="which has no GPU; calibrate on a node of the cluster"):
        calibration.calibrate(study, [])
    with pytest.raises(SpecError, match=r"--set resources\.gpus_per_worker=0"):
        check_device(study, describe_machine())


@pytest.mark.parametrize(
    ("own", "remedy"),
    [
        ("NVIDIA A100-SXM4-40GB", r"the right one, or set resources\.accelerator=A100$"),
        ("NVIDIA T4", "the right one$"),
    ],
)
def test_a_plan_for_another_gpu_is_not_calibrated(
    own: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: own)
    resources = ResourcesSpec(gpus_per_worker=1, accelerator="H100")
    with pytest.raises(SpecError, match=remedy):
        calibration.gpu_names(resources)


def test_a_part_gives_rates_flops_and_memory(runs: list[PlannedRun]) -> None:
    training = measure(Part(runs[0], stage="train"), 0.01)
    assert training["mfu"] == pytest.approx(
        training["tokens_per_second"]
        * training["train_flops_per_token"]["executed"]
        / training["peak_flops"]
    )
    assert 0 < training["memory"]["kept_bytes"] < training["memory"]["planned_activation_bytes"]
    alone = measure(Part(runs[0], batch=1), 0.01)
    assert alone["tokens_per_second"] == pytest.approx(16 / alone["seconds"])
    assert alone["first_tokens"] == 16
    assert json.dumps([training, alone])


def test_parts_are_stages_and_batches_of_distinct_models(runs: list[PlannedRun]) -> None:
    found = parts_of([*runs, *runs], [1, 8], kinds=list(Measured))
    assert [part.stage for part in found if part.stage] == ["train", "train", "vae", "joint"]
    assert [part.batch for part in found if part.batch] == [1, 8] * 3
    assert batches_in(" 1, 8,8") == [1, 8]
    for text in ("", "0", "1,,2", "-1", "1e3", "٣"):
        with pytest.raises(SpecError, match="is no list of batch sizes"):
            batches_in(text)


@pytest.mark.parametrize("gpu", [None, "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "other"])
def test_the_default_sizes_of_a_device_can_be_planned(gpu: str | None) -> None:
    for size in default_sizes(gpu):
        values = default_values(gpu) | {"ladder": [{"budget": 1e24, **size}]}
        assert {run.spec.family for run in planned(StudySpec.parse(values))} >= {"ar", "llada"}


def test_changes_of_the_default_study_are_for_the_device() -> None:
    machine = describe_machine() | {"gpu": None}
    with pytest.raises(SpecError, match="gpus_per_worker=1: this machine has no GPU"):
        changed_study(
            default_values(None) | {"ladder": [{"budget": 1e24, **default_sizes(None)[0]}]},
            machine=machine, changes=["resources.gpus_per_worker=1"],
        )  # fmt: skip


class Failing:
    """Stands for a process whose first part has a result, and whose second does not."""

    def __init__(self) -> None:
        self.limits: list[float] = []

    def measure(self, part: Part, *, seconds: float, limit: float) -> dict[str, Any]:
        self.limits.append(limit)
        if len(self.limits) == 2:
            raise PartError("does not fit")
        return measure(part, 0.001)


def test_results_are_written_as_they_come(runs: list[PlannedRun], tmp_path: Path) -> None:
    found = Benchmark("cola benchmark", "tiny", describe_machine())
    parts = parts_of(runs[:2], [1], kinds=list(Measured))
    lines = measured(Failing(), parts, found, limits=Limits(part=9.0), folder=tmp_path)
    next(lines)
    saved = json.loads((tmp_path / "benchmark.json").read_text())
    assert (len(saved["results"]), saved["complete"]) == (1, False)
    assert set(saved["left_out"].values()) == {"not reached"}
    assert len([*lines]) == 3
    saved = json.loads((tmp_path / "benchmark.json").read_text())
    assert [len(saved["results"]), *saved["failed"].values()] == [3, "does not fit"]
    assert saved["left_out"] == {}
    assert not saved["complete"]
    text = (tmp_path / "benchmark.txt").read_text()
    assert text == as_text(found.as_json())
    assert f"Failed: {parts[1].name}: does not fit" in text
    assert "tokens/s" in text


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(SpecError, match=r"--part-limit \S+: is no number of seconds"):
        Limits(part=value)


def test_passes_without_room_name_the_key(
    runs: list[PlannedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU refuses no pass for want of memory: the error is the engine's on a GPU."""

    def no_room(*_: object) -> None:
        raise PassMemoryError("CUDA out of memory")

    monkeypatch.setattr(TorchEngine, "step", no_room)
    refusal = r"resources\.micro_batch_sequences=8: stage train of ar does not fit the memory of"
    with pytest.raises(SpecError, match=refusal):
        step_times(runs[0].spec, "train", Execution(CPU), seconds=0.01)


class Endless:
    """Stands for a process in which no part but the first is done within its limit."""

    def __init__(self) -> None:
        self.measured, self.seconds = 0, 0.0

    def clock(self) -> float:
        """Seconds that measuring has taken."""
        return self.seconds

    def measure(self, part: Part, *, seconds: float, limit: float) -> dict[str, Any]:
        self.measured += 1
        if self.measured == 1:
            return {"tokens_per_second": 1.0}
        self.seconds += limit
        raise PartError(f"is not done after its limit of {limit:.0f} s")


def test_what_the_limit_of_all_parts_ends_is_left_out(
    runs: list[PlannedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.benchmark.benchmark.as_text", lambda values: "")
    found = Benchmark("cola benchmark", "tiny", describe_machine())
    parts = parts_of(runs, [1], kinds=[Measured.TRAINING])
    limits = Limits(part=9.0, total=5.0)
    process = Endless()
    lines = measured(process, parts, found, limits=limits, folder=tmp_path, clock=process.clock)
    assert len([*lines]) == 1
    assert found.failed == {}
    assert found.left_out == {part.name: "the time limit of 5 s" for part in parts[1:]}
    assert not found.complete
    # A part's own limit is a failure.
    found = Benchmark("cola benchmark", "tiny", describe_machine())
    limits = Limits(part=9.0, total=60.0)
    process = Endless()
    lines = measured(process, parts[:2], found, limits=limits, folder=tmp_path, clock=process.clock)
    assert len([*lines]) == 2
    assert [*found.failed] == [parts[1].name]


def test_the_default_folder_is_below_the_output_folder(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    study = StudySpec.parse(tiny_study | {"output": str(tmp_path / "own")})
    assert default_folder(study, []).parent == tmp_path / "own" / "benchmarks"
    changes = ["seeds=[1]", f"output={tmp_path / 'set'}"]
    assert default_folder(None, changes).parent == tmp_path / "set" / "benchmarks"
    assert default_folder(None, []).parent == Path("outputs/benchmarks").resolve()


def test_sizes_do_not_add_up_to_the_limit_of_compiled_forms(
    runs: list[PlannedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each measured stage starts with nothing compiled, as training does."""
    monkeypatch.setattr(StageModule, "compile", partialmethod(StageModule.compile, backend="eager"))
    monkeypatch.setattr(blocks, "COMPILED_FORMS", 1)
    # Its messages are for a file; pytest would format them all.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch.compiler.reset()
    blocks.compiled.cache_clear()
    try:
        for rows in (1, 2):
            execution = Execution(CPU, micro_batch_sequences=rows, compile=True)
            times = step_times(runs[0].spec, "train", execution, seconds=0.001)
            assert times.micro_batch_sequences == rows
    finally:
        torch.compiler.reset()
        blocks.compiled.cache_clear()


def test_with_activation_checkpointing_the_plan_stands_alone(runs: list[PlannedRun]) -> None:
    run = runs[0]
    resources = run.resources.model_copy(update={"activation_checkpointing": "always"})
    part = Part(replace(run, resources=resources), stage="train")
    plain, found = measure(Part(run, stage="train"), 0.001), measure(part, 0.001)
    assert (plain["activation_checkpointing"], found["activation_checkpointing"]) == (False, True)
    planned_bytes = [row["memory"]["planned_activation_bytes"] for row in (plain, found)]
    assert planned_bytes[1] < planned_bytes[0]
    assert "kept_bytes" not in found["memory"]
    found = part.as_json() | found
    cells = training_cells(found)
    assert cells[4] == "float32 checkpointed"
    assert cells[-1] == f"– / {planned_bytes[1] / 1e6:.1f}"
