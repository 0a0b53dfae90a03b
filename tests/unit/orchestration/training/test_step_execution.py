"""How steps are executed changes nothing: inputs ahead, numbers late, passes halved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cola.data import PreparedData
from cola.errors import RunError
from cola.families.interface.family import StageModule
from cola.families.registry import family_of
from cola.study import RunSpec
from orchestration.step.micro_batch import GroupShortageError, Shortage
from orchestration.training.distributed import WorkerRank
from orchestration.training.engine import EngineSettings, ParameterGroups, adamw
from orchestration.training.hooks import Checkpoint, StopOnDivergence
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import (
    LoopSettings,
    Progress,
    TrainState,
    draws_of,
    initial_model,
    open_stage,
    train,
)
from tests.sizes import FAMILIES
from tests.unit.orchestration.training.test_train_loop import (
    Losses,
    SaveAndStop,
    poison,
    trained,
    with_average,
)

ONE = WorkerRank()


def trained_by(
    settings: LoopSettings, run: RunSpec, data: PreparedData, hooks: Sequence[Any]
) -> TrainState:
    return train(run, data.train, TorchEngine, settings=settings, worker=ONE, hooks=hooks)


def weights_of(state: TrainState) -> dict[str, torch.Tensor]:
    return state.engine.full_state_dict()


def short(run: RunSpec) -> RunSpec:
    """Four steps of each stage."""
    stages = [stage.model_copy(update={"steps": 4}) for stage in run.stages]
    return run.model_copy(update={"stages": stages})


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_ahead_and_late_numbers_change_nothing(
    family: str, runs: dict[str, RunSpec], data: PreparedData
) -> None:
    run, plain, ahead = short(runs[family]), Losses(), Losses()
    first = trained_by(LoopSettings(0, 3), run, data, [plain])
    settings = LoopSettings(0, 3, prepare_ahead=True, lag=1)
    second = trained_by(settings, run, data, [ahead, StopOnDivergence()])
    assert len(plain.values) == run.steps
    assert ahead.values == plain.values
    expected, found = weights_of(first), weights_of(second)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_late_numbers_end_a_diverged_run_a_step_later_and_name_the_step(
    runs: dict[str, RunSpec], data: PreparedData
) -> None:
    saved: list[int] = []
    save = Checkpoint(1e-9, lambda state: saved.append(state.step))
    hooks = [StopOnDivergence(), save, poison]
    state = trained_by(LoopSettings(0, lag=1), runs["ar"], data, hooks)
    assert (state.stop, state.step) == ("diverged", 4)
    assert state.stop_reason == "loss is nan at step 3"
    assert saved == [2]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_waits_for_no_number_of_its_device(
    family: str, runs: dict[str, RunSpec], data: PreparedData
) -> None:
    """A device without numbers: whatever asks for one fails."""
    run, settings, device = runs[family], LoopSettings(0, 3), torch.device("meta")
    for index in range(len(run.stages)):
        state = open_stage(
            run,
            family_of(family),
            initial_model(family_of(family), run),
            engine_factory=lambda *given: TorchEngine(*given, device=device),
            settings=settings,
            worker=ONE,
            index=index,
            before=Progress(),
        )
        inputs = draws_of(state, data.train).at(state.first_step)
        result = state.engine.step([batch.on(device) for batch in inputs], 1.0)
        assert {value.device.type for value in result.means.values()} == {"meta"}
        with pytest.raises(RuntimeError, match="meta tensor"):
            _ = result.values


@pytest.mark.parametrize(("compiled", "fused"), [(True, True), (False, None)])
def test_compiled_runs_have_a_fused_optimizer(
    compiled: bool, fused: bool | None, runs: dict[str, RunSpec]
) -> None:
    groups: ParameterGroups = [{"params": [nn.Parameter(torch.zeros(1))]}]
    settings = EngineSettings(runs["ar"].training, 0, 1, compile=compiled)
    assert adamw(groups, settings).defaults["fused"] is fused


class TightEngine(TorchEngine):
    """Its device has no memory for passes of more than `most` sequences, from a step on."""

    most, since, where = 2, 0, "forward"

    def __init__(
        self, module: StageModule, groups: ParameterGroups, settings: EngineSettings
    ) -> None:
        super().__init__(module, groups, settings)
        hook = module.register_forward_hook
        hook(self._check, with_kwargs=True)

    def _check(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if len(kwargs["tokens_BL"]) <= self.most or self._steps < self.since:
            return output
        if self.where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        def backward(gradient: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        output["loss"].register_hook(backward)
        return output


def tight(**changes: Any) -> type[TightEngine]:
    return type("Tight", (TightEngine,), changes)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_passes_that_do_not_fit_are_halved_without_a_step_lost(
    where: str, runs: dict[str, RunSpec], data: PreparedData, tmp_path: Path
) -> None:
    """From step 5 on passes of 2 sequences fit: as if a checkpoint had been resumed with these."""
    run = with_average(runs["ar"], 0.9)
    before, after, found = Losses(), Losses(), Losses()
    stop = SaveAndStop(tmp_path, 5)
    trained(run, data, before, stop)
    assert stop.cursor is not None
    expected = trained(run, data, after, micro=2, resume=(tmp_path, stop.cursor))
    shortages: list[Shortage] = []
    state = train(
        run,
        data.train,
        tight(where=where, since=5),
        settings=LoopSettings(0, prepare_ahead=True, lag=1),
        worker=ONE,
        hooks=[found],
        on_shortage=shortages.append,
    )
    assert [(each.step, each.sequences, each.smaller) for each in shortages] == [
        (5, 8, 4),
        (5, 4, 2),
    ]
    assert (state.stop, state.micro_batch) == ("finished", 2)
    assert found.values == before.values | after.values
    with state.averaged(), expected.averaged():
        ours, theirs = weights_of(state), weights_of(expected)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_later_stages_keep_the_smaller_passes(runs: dict[str, RunSpec], data: PreparedData) -> None:
    shortages: list[Shortage] = []
    state = train(
        short(runs["cola"]),
        data.train,
        tight(most=4),
        settings=LoopSettings(0),
        worker=ONE,
        hooks=[],
        on_shortage=shortages.append,
    )
    assert (state.stop, state.stage_index, state.micro_batch) == ("finished", 1, 4)
    assert [(each.step, each.smaller) for each in shortages] == [(0, 4)]


def test_a_sequence_that_does_not_fit_is_one_line(
    runs: dict[str, RunSpec], data: PreparedData
) -> None:
    with pytest.raises(RunError, match=r"one sequence of stage train does not fit") as caught:
        train(
            runs["ar"],
            data.train,
            tight(most=0),
            settings=LoopSettings(0),
            worker=ONE,
            hooks=[],
        )
    message = str(caught.value)
    assert "at step 1 (CUDA out of memory. Tried to allocate 2.00 GiB); set resources." in message
    assert "\n" not in message


def test_a_worker_that_others_wait_for_leaves_with_the_size_to_resume_with(
    runs: dict[str, RunSpec], data: PreparedData
) -> None:
    shortages: list[Shortage] = []
    with pytest.raises(GroupShortageError, match=r"of 4 sequences .* training resumes with 2"):
        train(
            runs["ar"],
            data.train,
            tight(),
            settings=LoopSettings(0),
            worker=WorkerRank(1, 2),
            hooks=[],
            on_shortage=shortages.append,
        )
    assert [each.smaller for each in shortages] == [2]


class FullEngine(TorchEngine):
    """Its device has no memory for the optimiser's moments."""

    def __init__(
        self, module: StageModule, groups: ParameterGroups, settings: EngineSettings
    ) -> None:
        super().__init__(module, groups, settings)
        self.optimizer.register_step_pre_hook(self._refuse)

    def _refuse(self, *given: Any) -> None:
        if self._steps == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_an_optimiser_that_does_not_fit_is_one_line(
    runs: dict[str, RunSpec], data: PreparedData
) -> None:
    shortages: list[Shortage] = []
    with pytest.raises(RunError) as caught:
        train(
            runs["ar"],
            data.train,
            FullEngine,
            settings=LoopSettings(0),
            worker=ONE,
            hooks=[],
            on_shortage=shortages.append,
        )
    assert str(caught.value) == (
        "the optimiser's step of stage train does not fit the device's memory at step 2 (CUDA out "
        "of memory. Tried to allocate 2.00 GiB); smaller micro-batches do not help: raise "
        "resources.workers with resources.zero_stage at least 1, raise resources.gpus_per_worker "
        "where workers share a GPU, or choose a smaller size"
    )
    assert not shortages


@pytest.mark.parametrize(
    ("micro", "workers", "rows"), [(3, 1, 3), (None, 1, 8), (3, 2, 2), (None, 3, 3)]
)
def test_compiled_blocks_have_the_rows_of_the_largest_pass(
    micro: int | None, workers: int, rows: int, runs: dict[str, RunSpec]
) -> None:
    """8 sequences a step: 3, 3 and 2 of them in a pass, or 2 and 2 of each of two workers."""
    state = open_stage(
        runs["ar"],
        family_of("ar"),
        initial_model(family_of("ar"), runs["ar"]),
        engine_factory=TorchEngine,
        settings=LoopSettings(0, micro, compile=True),
        worker=WorkerRank(0, workers),
        index=0,
        before=Progress(),
    )
    execution = state.engine.module.execution
    assert (execution.backend, execution.rows) == ("inductor", rows)
