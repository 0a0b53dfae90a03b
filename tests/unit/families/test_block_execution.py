"""Every family's training step with compiled blocks and with activation checkpointing."""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from cola.families.cola.spec import ColaObjective
from cola.families.interface.family import Batch, StageModule
from cola.families.interface.specs import ObjectiveSpec
from cola.families.llada.spec import MaskedDiffusion
from cola.families.registry import definition_of, definitions, family_of
from cola.models import execution
from cola.models.execution import BlockExecution, executing, filled
from cola.seeding import Stream
from cola.spec import LikelihoodSpec
from cola.spec.objectives import JointObjective, VAEObjective
from tests.sizes import FAMILIES, SMALL, size_model

VOCAB, LENGTH = 60, 32
DEFAULTS = {family.name: family.settings.parse({}).objective for family in definitions()}
CASES: dict[str, tuple[str, str, ObjectiveSpec]] = {
    f"{name} {stage}": (name, stage, DEFAULTS[name])
    for name in FAMILIES
    for stage in DEFAULTS[name].stage_shares()
} | {
    "llada shortened": ("llada", "train", MaskedDiffusion(random_length_fraction=0.3)),
    "cola flow": (
        "cola",
        "joint",
        ColaObjective(stage2=JointObjective(gradient_mode="frozen_vae")),
    ),
    "cola interval": (
        "cola",
        "joint",
        ColaObjective(stage2=JointObjective(gradient_mode="interval", vae_interval=2)),
    ),
    "cola reference": (
        "cola",
        "joint",
        ColaObjective(
            stage1=VAEObjective(token_dropout=0.2),
            stage2=JointObjective(gradient_mode="joint", lambda_ref=0.1),
        ),
    ),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing compiled before or afterwards."""
    torch.compiler.reset()
    counters.clear()
    # Its messages are for a file; pytest would format them all.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    yield
    torch.compiler.reset()


def stage_of(case: str) -> StageModule:
    name, stage, objective = CASES[case]
    torch.manual_seed(0)
    family = family_of(name)
    model = family.build(size_model(name, 100_000, VOCAB, **SMALL.get(name, {})))
    return family.stage_module(model, objective, stage)


def drawn(
    module: StageModule, step: int, rows: int, length: int = LENGTH
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, VOCAB, (rows, length), generator=generator)
    batch = Batch(ids, Stream(0, step, range(rows)), list(range(rows)), rows, stage_step=step)
    with torch.no_grad():
        return module.draw(batch)


@pytest.mark.parametrize(
    "case",
    [
        "ar train",
        "llada shortened",
        "cola vae",
        "cola joint",
        "cola flow",
        "cola interval",
        "embedding_diffusion train",
    ],
)
def test_a_step_is_whole_graphs_that_are_compiled_once(case: str) -> None:
    """A graph break would raise; steps with a mask, and those that rest the VAE, have their own.

    Where micro-batches do not divide a batch, the smaller ones have no graphs of their own.
    """
    module = stage_of(case)
    module.compile(backend="eager", rows=3)
    graphs = []
    for step in range(6):
        for rows in (3, 2) if step else (3,):
            module(**drawn(module, step, rows))["loss"].backward()
        graphs.append(counters["stats"]["unique_graphs"])
    settled = 3 if "shortened" in case or "interval" in case else 0
    assert graphs[settled] == graphs[-1] > 0
    assert not counters["graph_break"]
    if "vae" not in case:  # other uses of the model have other shapes, and compile nothing
        ids, how = torch.zeros(5, LENGTH, dtype=torch.long), LikelihoodSpec(ode_steps=2)
        model, family = module.get_submodule("model"), family_of(CASES[case][0])
        with torch.no_grad():
            family.likelihood(model, ids, how, stream=Stream(0, 0, range(5)))
        assert counters["stats"]["unique_graphs"] == graphs[-1]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_rows_that_fill_up_a_compiled_pass_change_no_loss_and_no_gradient(
    case: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are called as they are: only what they are given differs."""
    given: list[int] = []

    def plainly(function: Any, backend: str) -> Any:
        def run(block: Any, x: torch.Tensor, *rest: Any, **more: Any) -> Any:
            given.append(len(x))
            return function(block, x, *rest, **more)

        return run

    monkeypatch.setattr(execution, "compiled", plainly)
    found = []
    for fills in (False, True):
        module = stage_of(case)
        if fills:
            module.compile(rows=3)
        outputs = module(**drawn(module, 3, rows))
        outputs["loss"].backward()
        gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
        found.append((outputs, gradients))
    (plain, expected), (filled, gradients) = found
    assert given
    assert {count % 3 for count in given} == {0}
    torch.testing.assert_close(filled, plain, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-5)


def test_passes_are_filled_up_only_where_blocks_are_compiled() -> None:
    part = torch.ones(2, 4)
    for how in (BlockExecution(rows=3), BlockExecution("eager"), BlockExecution("eager", rows=2)):
        with executing(how.of_pass(2)):
            assert filled(part) is part
    with executing(BlockExecution("eager", rows=3).of_pass(1)):
        assert filled(part).tolist() == [[1.0] * 4] * 2 + [[0.0] * 4] * 4


@pytest.mark.parametrize(
    ("case", "precision"),
    [*((case, "float32") for case in CASES), ("ar train", "bfloat16"), ("cola joint", "bfloat16")],
)
def test_losses_and_weights_are_the_same_with_checkpointing(case: str, precision: str) -> None:
    found = []
    for checkpoints in (False, True):
        module = stage_of(case)
        if checkpoints:
            module.checkpoint_activations()
        optimizer = torch.optim.AdamW(p for p in module.parameters() if p.requires_grad)
        losses = []
        for step in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                loss = module(**drawn(module, step, 3))["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        weights = torch.cat([p.detach().flatten() for p in module.parameters()])
        found.append((losses, weights))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


class PeakMemory(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, of those made within it."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._alive = self.peak = 0

    def _forget(self, key: int) -> None:
        self._alive -= self._sizes.pop(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for part in torch.utils._pytree.tree_leaves(result):
            storage = part.untyped_storage() if isinstance(part, torch.Tensor) else None
            if storage is not None and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self._alive += storage.nbytes()
                weakref.finalize(storage, self._forget, storage._cdata)
        self.peak = max(self.peak, self._alive)
        return result


@pytest.mark.parametrize(
    "case", ["ar train", "llada train", "cola vae", "cola joint", "embedding_diffusion train"]
)
def test_checkpointing_takes_less_memory_which_the_plan_estimates_from_above(case: str) -> None:
    name, stage, objective = CASES[case]
    spec, family, rows, length = size_model(name, 200_000, VOCAB), family_of(name), 4, 128
    peaks = []
    for checkpoints in (False, True):
        module = family.stage_module(family.build(spec), objective, stage)
        if checkpoints:
            module.checkpoint_activations()
        draws = drawn(module, 0, rows, length)
        with PeakMemory() as memory:
            loss = module(**draws)["loss"]
            at_forward = memory.peak
            loss.backward()
        gradients = sum(4 * p.numel() for p in module.parameters() if p.grad is not None)
        assert memory.peak >= at_forward
        peaks.append((memory.peak - gradients) / (rows * length))
    estimate = definition_of(name).checkpointed_bytes(spec, objective, "float32")
    assert estimate is not None
    assert peaks[1] < 0.75 * peaks[0]
    assert peaks[1] < estimate
    if stage != "vae":  # stage 2 keeps more, and is what is planned
        assert estimate < 3 * peaks[1]


def test_how_a_stage_runs_is_its_own() -> None:
    first, second = stage_of("ar train"), stage_of("ar train")
    first.compile(backend="eager")
    first.checkpoint_activations()
    assert (first.execution.backend, first.execution.checkpoints) == ("eager", True)
    assert (second.execution.backend, second.execution.checkpoints) == (None, False)


class Casts(TorchDispatchMode):
    """How often each of the module's parameters was cast to another type."""

    def __init__(self, module: StageModule) -> None:
        super().__init__()
        self._names = {p.data_ptr(): name for name, p in module.named_parameters()}
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self._names:
            self.counts[self._names[args[0].data_ptr()]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_steps_cast_each_weight_at_most_once(case: str) -> None:
    """Forward and backward pass share the copies, which live as long as autocast's context."""
    module = stage_of(case)
    inputs = drawn(module, 0, 3)
    with Casts(module) as casts:
        with torch.autocast("cpu", torch.bfloat16):
            loss = module(**inputs)["loss"]
        loss.backward()
    assert casts.counts
    assert {name: count for name, count in casts.counts.items() if count > 1} == {}
