"""Generation on a GPU: captured steps are replayed, and give the CPU's tokens in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cola.families.interface.family import Family
from cola.sampling import static_step
from cola.sampling.static_step import Graph, StaticStep
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.factories import tiny_model
from tests.gpu.conftest import needs_gpu
from tests.sizes import FAMILIES, SMALL

pytestmark = [pytest.mark.gpu, needs_gpu]
VOCAB, EOS = 300, 3
PROMPTS = [list(range(4, 4 + length)) for length in (3, 27, 8, 5, 1, 40)]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.3},
    "guided": {"unmasking_guidance_scale": 2.0, "unmasking_block": 8, "solver": "heun"},
}


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """No gradients, and float32 products in full."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.no_grad():
        yield
    torch.set_float32_matmul_precision(precision)


def model_of(name: str) -> tuple[Family, Any]:
    return tiny_model(name, 600_000, VOCAB, 3.0, **SMALL.get(name, {}))


def generated(family: Family, model: Any, device: str, values: dict[str, Any]) -> list[list[int]]:
    """Continuations of PROMPTS, four rows at a time."""
    settings = GenerationSpec.parse({"max_new_tokens": 40, "steps": 4} | values)
    stream = Stream(0, 0, range(len(PROMPTS)), device=device)
    made = family.iter_generate(
        model.to(device), PROMPTS, settings, stream=stream, eos_token_id=EOS, rows=4
    )
    return [tokens for _, tokens in sorted(made)]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[StaticStep]:
    """The steps that a test makes."""
    made: list[StaticStep] = []

    class Kept(StaticStep):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(static_step, "StaticStep", Kept)
    return made


@pytest.mark.parametrize("values", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", FAMILIES)
def test_replayed_steps_give_the_cpu_s_tokens(
    name: str, values: dict[str, Any], steps: list[StaticStep]
) -> None:
    family, model = model_of(name)
    expected = generated(family, model, "cpu", values)
    steps.clear()
    assert generated(family, model, "cuda", values) == expected
    assert all(step.graphs for step in steps), "a step has not been captured"
    made = len(steps)
    # The next generation replays the graphs of this one.
    assert generated(family, model, "cuda", values) == expected
    assert len(steps) == made


@pytest.mark.parametrize("name", FAMILIES)
def test_a_replay_waits_for_nothing(name: str, steps: list[StaticStep]) -> None:
    """A second replay writes what the first has written."""
    family, model = model_of(name)
    generated(family, model, "cuda", {})
    graphs = [graph for step in steps for graph in step.graphs.values()]
    assert len(graphs) >= len(steps) > 0
    for graph in graphs:
        replay_without_waiting(graph)
        first = [output.clone() for output in graph.outputs]
        replay_without_waiting(graph)
        assert all(map(torch.equal, graph.outputs, first))


def replay_without_waiting(graph: Graph) -> None:
    """Torch raises where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        graph.graph.replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_changed_weights_are_not_those_of_the_latest_generation() -> None:
    family, model = model_of("cola")
    generated(family, model, "cuda", {})
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(1.1)
    found = generated(family, model, "cuda", {})
    assert found == generated(family, model, "cpu", {})
