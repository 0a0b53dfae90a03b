"""The loop in process: resuming changes nothing, workers and micro-batches change nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cola.data import PreparedData
from cola.errors import RunError
from cola.families.registry import family_of
from cola.spec.training import ScheduleSpec
from cola.study import RunSpec
from orchestration.checkpoint.manifest import Cursor
from orchestration.training.distributed import WorkerRank
from orchestration.training.hooks import StopOnDivergence, order_digests
from orchestration.training.sharded_state import MOMENTS, WEIGHT, FragmentReader
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
from orchestration.training.validation import evaluation_steps, summary_of, validation_rows
from tests.sizes import FAMILIES


class Losses:
    """Keeps every step's loss."""

    def __init__(self) -> None:
        self.values: dict[int, float] = {}

    def __call__(self, state: TrainState) -> None:
        self.values[state.step] = state.result.values["loss"]


class SaveAndStop:
    """Saves after a step, and leaves."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step, self.cursor = folder, step, None

    def __call__(self, state: TrainState) -> None:
        if state.step == self.step:
            state.save(self.folder)
            self.cursor = state.cursor()
            state.stop = "interrupted"


def trained(run: RunSpec, data: PreparedData, *hooks: Any, **options: Any) -> TrainState:
    settings = LoopSettings(
        0, options.pop("micro", None), checkpoints_activations=options.pop("recomputed", False)
    )
    return train(
        run, data.train, TorchEngine, settings=settings, worker=WorkerRank(), hooks=hooks, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_resumed_run_is_the_same_run_bit_by_bit(
    family: str, runs: dict[str, RunSpec], data: PreparedData, tmp_path: Path
) -> None:
    """Also where it resumes with activation checkpointing."""
    run = runs[family]
    whole, before, after = Losses(), Losses(), Losses()
    reference = trained(run, data, whole)
    # Inside the last stage, so that Cola DLM's resume has to find its second engine.
    stop = SaveAndStop(tmp_path, run.steps - run.stages[-1].steps + 2)
    assert trained(run, data, before, stop).stop == "interrupted"
    assert isinstance(stop.cursor, Cursor)
    resumed = trained(run, data, after, resume=(tmp_path, stop.cursor), recomputed=True)
    assert resumed.stop == "finished"
    assert before.values | after.values == whole.values
    expected = reference.engine.full_state_dict()
    found = resumed.engine.full_state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_in_process_writes_the_fragments_that_production_reads(
    family: str, runs: dict[str, RunSpec], data: PreparedData, tmp_path: Path
) -> None:
    stop = SaveAndStop(tmp_path, 3)
    state = trained(runs[family], data, stop)
    assert isinstance(state.engine, TorchEngine)
    assert [path.name for path in tmp_path.iterdir()] == ["fragments-00000.safetensors"]
    with FragmentReader(tmp_path) as reader:
        assert reader.steps == 3
        for name, value in state.engine.module.named_parameters():
            flat = value.detach().flatten()
            assert torch.equal(reader.read(WEIGHT, name, 0, numel=len(flat)), flat)
            trained_yet = value in state.engine.optimizer.state
            assert [reader.has(kind, name) for kind in MOMENTS] == [trained_yet] * 2
            if trained_yet:
                moment = state.engine.optimizer.state[value]["exp_avg"].flatten()
                assert torch.equal(reader.read("exp_avg", name, 0, numel=len(flat)), moment)


def test_the_schedule_goes_on_over_stages_towards_its_horizon(
    runs: dict[str, RunSpec], data: PreparedData
) -> None:
    stages = [stage.model_copy(update={"steps": 3}) for stage in runs["cola"].stages]
    schedule = ScheduleSpec(warmup_steps=2, horizon_steps=40)
    training = runs["cola"].training.model_copy(update={"schedule": schedule})
    changes = {"training": training, "stages": stages}
    state = trained(runs["cola"].model_copy(update=changes), data)
    passed = (5 - 2) / (39 - 2)
    peak = training.optimizer.learning_rate
    expected = peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * passed)))
    assert state.learning_rate == pytest.approx(expected, rel=1e-12)


def with_average(run: RunSpec, decay: float) -> RunSpec:
    training = run.training.model_copy(update={"ema_decay": decay})
    return run.model_copy(update={"training": training})


@pytest.mark.slow
def test_the_average_of_the_weights_is_what_its_definition_says(
    runs: dict[str, RunSpec], data: PreparedData
) -> None:
    run, steps = with_average(runs["cola"], 0.5), []

    def keep(state: TrainState) -> None:
        if state.average is not None:
            steps.append({n: p.detach().clone() for n, p in state.model.named_parameters()})

    state = trained(run, data, keep)
    assert len(steps) == run.stages[-1].steps
    with state.averaged():
        found = {n: p.detach().clone() for n, p in state.model.named_parameters()}
    weights = [1.0]
    for count in range(2, len(steps) + 1):
        decay = min(0.5, 1 - 1 / count)
        weights = [decay * weight for weight in weights] + [1 - decay]
    for name, value in found.items():
        expected = sum(w * step[name] for w, step in zip(weights, steps, strict=True))
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)
    last = steps[-1]
    assert any((found[name] - last[name]).abs().max() > 1e-4 for name in last)
    assert all(torch.equal(p, last[n]) for n, p in state.model.named_parameters())


@pytest.mark.slow
def test_a_resumed_run_has_the_same_average(
    runs: dict[str, RunSpec], data: PreparedData, tmp_path: Path
) -> None:
    run = with_average(runs["cola"], 0.9)
    reference = trained(run, data)
    stop = SaveAndStop(tmp_path, run.steps - run.stages[-1].steps + 2)
    trained(run, data, stop)
    assert stop.cursor is not None
    resumed = trained(run, data, resume=(tmp_path, stop.cursor))
    with reference.averaged(), resumed.averaged():
        expected, found = reference.engine.full_state_dict(), resumed.engine.full_state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # What was taken inside the context stays the average after it.
    last = reference.engine.module.state_dict()
    assert any((expected[name] - last[name]).abs().max() > 1e-4 for name in last)


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_change_nothing_but_rounding(
    family: str, runs: dict[str, RunSpec], data: PreparedData
) -> None:
    whole, split = Losses(), Losses()
    trained(runs[family], data, whole)
    trained(runs[family], data, split, micro=2)
    ours = torch.tensor([split.values[step] for step in sorted(whole.values)])
    theirs = torch.tensor([whole.values[step] for step in sorted(whole.values)])
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_of_different_sizes_count_by_their_rows(
    family: str, runs: dict[str, RunSpec], data: PreparedData
) -> None:
    """Of 8 sequences: 2, 3 and 3. The first steps, before rounding has grown."""
    found = []
    for micro in (None, 3):
        steps: list[tuple[dict[str, float], float]] = []

        def keep(state: TrainState, kept: list[Any] = steps) -> None:
            kept.append((state.result.values, state.result.gradient_norm))
            if state.step == 3:
                state.stop = "interrupted"

        trained(runs[family], data, keep, micro=micro)
        found.append(steps)
    for (whole, whole_norm), (split, split_norm) in zip(*found, strict=True):
        for name in whole.keys() - {"log_snr"}:  # a ratio of means, not a mean over rows
            assert split[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-5)
        assert split_norm == pytest.approx(whole_norm, rel=1e-4)


def test_workers_with_uneven_shares_have_the_gradient_of_the_whole_batch(
    runs: dict[str, RunSpec], data: PreparedData
) -> None:
    """Three workers share 8 sequences in passes of one: the first makes an empty third pass."""
    run, settings = runs["ar"], LoopSettings(0, 1)
    gradients, losses = [], []
    for worker in [WorkerRank(), *(WorkerRank(rank, 3) for rank in range(3))]:
        family = family_of(run.family)
        model = initial_model(family, run)
        state = open_stage(
            run,
            family,
            model,
            engine_factory=TorchEngine,
            settings=settings,
            worker=worker,
            index=0,
            before=Progress(),
        )
        batches = draws_of(state, data.train).at(0)
        if worker.world_size == 3:
            assert len(batches) == 3
            assert [batch.weight for batch in batches].count(0.0) == (worker.rank == 0)
        else:
            assert [batch.weight for batch in batches] == [1.0] * 8
        losses.append(0.0)
        for batch in batches:
            loss = batch.weight * state.engine.module(**batch.inputs)["loss"] / len(batches)
            loss.backward()
            losses[-1] += float(loss.detach())
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert sum(losses[1:]) / 3 == pytest.approx(losses[0], rel=1e-6)
    for whole, *parts in zip(*gradients, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), whole, atol=1e-7, rtol=1e-4)


def test_more_workers_than_sequences_are_refused(
    runs: dict[str, RunSpec], data: PreparedData
) -> None:
    with pytest.raises(ValueError, match="8 sequences cannot be divided for rank 0 of 9"):
        train(
            runs["ar"],
            data.train,
            TorchEngine,
            settings=LoopSettings(0),
            worker=WorkerRank(0, 9),
            hooks=[],
        )


def test_a_checkpoint_of_another_run_is_refused(
    runs: dict[str, RunSpec], data: PreparedData, tmp_path: Path
) -> None:
    cursor = Cursor(stage=1, step=40, world_size=1, zero_stage=0, elapsed_seconds=1.0)
    with pytest.raises(RunError, match=r"is of stage 1, but run .* has 1 stages; remove") as caught:
        trained(runs["ar"], data, resume=(tmp_path, cursor))
    assert (caught.value.exit_code, str(tmp_path) in str(caught.value)) == (6, True)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_validation_nll(
    family: str, runs: dict[str, RunSpec], data: PreparedData
) -> None:
    seen: list[float] = []

    def evaluate(state: TrainState) -> None:
        if state.step in (run.steps - run.stages[-1].steps + 1, run.steps):
            rows = validation_rows(state, data)
            seen.append(summary_of(rows, data, state.family)["val/nll_nats_per_token"])

    run = runs[family]
    trained(run, data, evaluate)
    assert len(seen) == 2
    assert seen[1] < seen[0]


def test_validation_is_the_same_every_time(runs: dict[str, RunSpec], data: PreparedData) -> None:
    found: list[dict[str, float]] = []

    def evaluate(state: TrainState) -> None:
        if state.step == 3:
            found.extend(
                summary_of(validation_rows(state, data), data, state.family) for _ in range(2)
            )
            state.stop = "interrupted"

    trained(runs["llada"], data, evaluate)
    assert found[0] == found[1]


def test_rate_and_distortion_make_up_the_nll(runs: dict[str, RunSpec], data: PreparedData) -> None:
    rows: dict[int, dict[str, float]] = {}
    found: dict[str, float] = {}

    def evaluate(state: TrainState) -> None:
        rows.update(validation_rows(state, data))
        found.update(summary_of(rows, data, state.family))
        state.stop = "interrupted"

    trained(runs["cola"], data, evaluate)
    rate, distortion = (found[f"val/{name}_nats_per_token"] for name in ("rate", "distortion"))
    assert rate + distortion == pytest.approx(found["val/nll_nats_per_token"])
    assert rate == pytest.approx(found["val/prior"] + found["val/posterior"])
    for name in ("rate", "distortion", "diffusion_bound"):
        values = np.array([row[f"{name}_nats_per_token"] for row in rows.values()])
        assert found[f"val/{name}_nats_per_token"] == pytest.approx(values.mean())
        error = values.std(ddof=1) / len(values) ** 0.5
        assert found[f"val/{name}_standard_error"] == pytest.approx(error)
    # An untrained prior charges more than the Gaussian with the latents' moments.
    assert found["val/prior_nats_per_dimension"] > found["val/gaussian_nats_per_dimension"]
    assert not any("pooled" in name or "latent_mean" in name for name in found)


def poison(state: TrainState) -> None:
    """A hook that makes weights not finite after step 2."""
    if state.step == 2:
        with torch.no_grad():
            next(iter(state.model.parameters())).fill_(float("nan"))


def test_a_loss_that_is_not_finite_ends_the_run(
    runs: dict[str, RunSpec], data: PreparedData
) -> None:
    state = trained(runs["ar"], data, poison, StopOnDivergence())
    assert (state.stop, state.step) == ("diverged", 3)
    assert state.stop_reason == "loss is nan at step 3"
    assert state.stop_code == "diverged"


def test_order_digests_agree_between_families(runs: dict[str, RunSpec], data: PreparedData) -> None:
    digests = [order_digests(run, run.steps, len(data.train)) for run in runs.values()]
    common = set.intersection(*(set(found) for found in digests))
    assert max(common) >= 64
    assert all(len({found[count] for found in digests}) == 1 for count in common)
    other = runs["ar"].model_copy(update={"data": runs["ar"].data.model_copy(update={"seed": 1})})
    assert order_digests(other, 10, len(data.train))[64] != digests[0][64]


def test_evaluation_steps_end_with_the_run(runs: dict[str, RunSpec]) -> None:
    for run in runs.values():
        steps = evaluation_steps(run)
        assert steps[-1] == run.steps
        assert steps[0] > run.steps - run.stages[-1].steps
        assert len(steps) <= run.evaluation.points
