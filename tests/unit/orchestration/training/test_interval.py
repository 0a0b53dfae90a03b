"""An interval between updates of the VAE: in between, its weights and its optimiser rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cola.families.cola.spec import ColaObjective
from cola.families.interface.family import Batch
from cola.families.registry import family_of
from cola.seeding import Stream
from cola.spec.objectives import JointObjective, LikelihoodTime
from cola.study import TrainingSpec
from orchestration.step.draws import MicroBatch
from orchestration.training.engine import EngineSettings
from orchestration.training.torch_engine import TorchEngine
from tests.sizes import size_model

VOCAB, LENGTH, ROWS, INTERVAL = 40, 16, 2, 3
# With what else has a state or a rhythm of its own: learned times, estimates, a reference.
OBJECTIVE = ColaObjective(
    stage2=JointObjective(
        gradient_mode="interval",
        vae_interval=INTERVAL,
        timestep=LikelihoodTime(learned=True),
        self_conditioning=0.5,
        reference_in="every_mode",
    )
)
SETTINGS = EngineSettings(TrainingSpec(batch_sequences=ROWS), 0, 1)


def opened() -> tuple[Any, TorchEngine]:
    torch.manual_seed(0)
    family = family_of("cola")
    sizes = {"latent_dim": 4, "block_size": 8, "objective": OBJECTIVE.model_dump()}
    model: Any = family.build(size_model("cola", 60_000, VOCAB, **sizes))
    module = family.stage_module(model, OBJECTIVE, "joint")
    groups = family.parameter_groups(module, OBJECTIVE, "joint")
    return model, TorchEngine(module, groups, SETTINGS)


def step(engine: TorchEngine, number: int) -> None:
    tokens = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    stream = Stream(0, number, range(ROWS))
    batch = Batch(tokens, stream, list(range(ROWS)), ROWS, stage_step=number)
    with torch.no_grad():
        inputs = engine.module.draw(batch)
    engine.step([MicroBatch(inputs)], 1.0)


def state_of(model: Any, engine: TorchEngine) -> list[torch.Tensor]:
    """The VAE's weights, moments and step counts."""
    found = []
    for parameter in model.vae.parameters():
        kept = engine.optimizer.state.get(parameter, {})
        found += [parameter.detach().clone(), *(value.clone() for value in kept.values())]
    return found


def test_weights_moments_and_step_count_rest_between_updates() -> None:
    model, engine = opened()
    for number in range(3 * INTERVAL):
        before = state_of(model, engine)
        step(engine, number)
        after = state_of(model, engine)
        rests = (number + 1) % INTERVAL != 0
        same = len(before) == len(after) and all(map(torch.equal, before, after))
        assert same is rests
    counts = {float(engine.optimizer.state[p]["step"]) for p in model.vae.decoder.parameters()}
    assert counts == {3.0}
    assert {float(engine.optimizer.state[p]["step"]) for p in model.dit.parameters()} == {9.0}


def test_a_resumed_interval_is_the_same_bit_by_bit(tmp_path: Path) -> None:
    _, whole = opened()
    for number in range(8):
        if number == 4:
            whole.save(tmp_path)
        step(whole, number)
    _, resumed = opened()
    resumed.load(tmp_path)
    for number in range(4, 8):
        step(resumed, number)
    expected = whole.module.state_dict()
    found = resumed.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert float(found["schedule.logits"].abs().max()) > 0
