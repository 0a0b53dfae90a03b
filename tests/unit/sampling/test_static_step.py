"""Steps of fixed shapes: the same tokens, nothing read back, one graph for many passes."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cola.sampling import static_step
from cola.sampling.static_step import MOST_GRAPHS, Graph, StaticStep
from cola.seeding import Stream
from cola.spec import GenerationSpec
from tests.factories import tiny_model
from tests.sizes import FAMILIES

VOCAB, EOS = 40, 3
PROMPTS = [[5, 6, 7], list(range(4, 31)), [9] * 8, [1, 2, 4, 5, 6], [7]]
SMALL: dict[str, dict[str, int]] = {  # several blocks a continuation
    "cola": {"latent_dim": 4, "block_size": 4},
    "embedding_diffusion": {"embedding_dim": 4, "block_size": 4},
}
WAYS: dict[str, dict[str, object]] = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "top_p": 0.9, "top_k": 30, "repetition_penalty": 1.3},
    "guided": {"unmasking_guidance_scale": 2.0, "remasking": "random", "solver": "heun"},
}
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_unique2")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def generated(
    name: str,
    prompts: Sequence[list[int]] = PROMPTS,
    core: int = 60_000,
    **values: Any,
) -> list[list[int]]:
    """Continuations of the prompts, three rows at a time."""
    given = {"max_new_tokens": 9, "steps": 2, "tokens_per_pass": 2, "unmasking_block": 4}
    settings = GenerationSpec.parse(given | values)
    family, model = tiny_model(name, core, VOCAB, 3.0, **SMALL.get(name, {}))
    made = family.iter_generate(
        model,
        prompts,
        settings,
        stream=Stream(0, 0, range(len(prompts))),
        eos_token_id=EOS,
        rows=3,
    )
    return [tokens for _, tokens in sorted(made)]


def watched(
    monkeypatch: pytest.MonkeyPatch,
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> list[tuple[Hashable, ...]]:
    """Has every step's function wrapped; what is returned collects the steps' keys and shapes."""
    keys: list[tuple[Hashable, ...]] = []

    class Watched(StaticStep):
        def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
            super().__init__(wrap(function), device)
            self._name = getattr(function, "__name__", "")

        def __call__(self, key: Hashable, *inputs: Tensor | None) -> tuple[Tensor, ...]:
            keys.append((self._name, key, *(None if i is None else i.shape for i in inputs)))
            return super().__call__(key, *inputs)

    monkeypatch.setattr(static_step, "StaticStep", Watched)
    return keys


class Reads(TorchDispatchMode):
    """Counts the operators whose result depends on numbers that the host would wait for."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        if name in READS:
            self._found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("values", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", FAMILIES)
def test_fixed_shapes_give_the_same_tokens_and_read_nothing_back(
    name: str, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generated(name, **values)
    monkeypatch.setattr(static_step, "fixed_shapes", lambda device: True)
    found: Counter[str] = Counter()

    def reading(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*inputs: Tensor | None) -> Any:
            with Reads(found):
                return function(*inputs)

        return run

    keys = watched(monkeypatch, reading)
    assert generated(name, **values) == expected
    assert len(keys) > len(set(keys))
    assert not found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_is_one_graph_for_all_lengths_of_a_generation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch.compile sees it: no graph break, and nothing traced again as rows grow."""
    given: dict[str, Any] = {
        "prompts": PROMPTS[2:4],
        "core": 20_000,
        "steps": 1,
        "max_new_tokens": 14,
    }
    expected = generated(name, **given)
    monkeypatch.setattr(static_step, "fixed_shapes", lambda device: True)
    graphs: list[object] = []

    def backend(module: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        graphs.append(module)
        return module.forward

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        fused = torch.compile(function, fullgraph=True, dynamic=False, backend=backend)
        met: set[Hashable] = set()

        def run(*inputs: Tensor | None) -> Any:
            shapes = tuple(None if part is None else part.shape for part in inputs)
            if shapes in met:
                return fused(*inputs)
            met.add(shapes)  # plainly at first, as in front of a CUDA graph's capture
            return function(*inputs)

        return run

    torch._dynamo.reset()
    keys = watched(monkeypatch, compiled)
    found = generated(name, **given)
    torch._dynamo.reset()
    assert found == expected
    counts = Counter(keys).values()
    assert len(graphs) == sum(count > 1 for count in counts)
    assert max(counts) > 2


def test_the_latest_graphs_are_kept_whatever_came_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU in a GPU's place: a graph is its outputs."""

    class Replayed:
        def replay(self) -> None:
            pass

    def captured(function: Callable[..., Any], inputs: Any, pool: object) -> Graph:
        graph: Any = Replayed()
        return Graph(graph, inputs, function(*inputs))

    monkeypatch.setattr(static_step, "warmed_up", lambda function, inputs: function(*inputs))
    monkeypatch.setattr(static_step, "captured", captured)
    step = StaticStep(lambda x: (x + 1,), torch.device("cpu"))
    step._captures = True
    for key in range(2 * MOST_GRAPHS):
        step(key, torch.zeros(1))
    assert not step.graphs
    for key in range(MOST_GRAPHS + 4):
        assert step(key, torch.zeros(1))[0].item() == 1
    shapes = ((torch.Size([1]), torch.float32),)
    assert list(step.graphs) == [(key, shapes) for key in range(4, MOST_GRAPHS + 4)]


def test_a_model_keeps_its_decoder_until_its_weights_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(static_step, "fixed_shapes", lambda device: True)
    model = torch.nn.Linear(2, 2)

    def decoder(key: str) -> object:
        with static_step.reused(model, key, object) as found:
            return found

    first = decoder("a")
    assert decoder("a") is first
    assert decoder("b") is not first
    second = decoder("b")
    model.weight.mul_(2.0)
    assert decoder("b") is not second
    third = decoder("b")
    assert copy.deepcopy(model).__dict__["_idle_decoder"].decoder is None
    with static_step.reused(model, "b", object) as taken:
        assert taken is third
        assert decoder("b") is not third  # one generation at a time
    with contextlib.suppress(KeyError), static_step.reused(model, "b", object) as taken:
        raise KeyError
    assert decoder("b") is not taken  # it may be in the middle of its work
