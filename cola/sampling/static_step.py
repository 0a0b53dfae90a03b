"""A step of fixed shapes: a CUDA graph that is replayed on a GPU, a plain call elsewhere.

A pass of a decoder is hundreds of kernels of a few microseconds each, which a GPU finishes sooner
than Python starts them. A graph starts them all at once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cola.errors import one_line

log = logging.getLogger(__name__)
Inputs = tuple[Tensor | None, ...]
Function = Callable[..., tuple[Tensor, ...]]
T = TypeVar("T")
MOST_GRAPHS = 16  # of one step, a chosen value: a graph of 10,000 kernels takes megabytes


def fixed_shapes(device: torch.device) -> bool:
    """Whether steps on the device have fixed shapes, as graphs need: they cost more work."""
    return device.type == "cuda"


@dataclass(frozen=True)
class Graph:
    """A captured step: it reads `inputs` and writes `outputs`, always the same memory."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    outputs: tuple[Tensor, ...]


class StaticStep:
    """`function` of tensors (or None) to tensors, which waits for nothing that a GPU computes.

    What else it reads or writes must keep its memory from call to call, and all of Python that it
    depends on must be in `key`. A step must give the same when it is run twice. It runs as it is
    the first time that a key comes, which warms it up, and is captured the second time: a short
    generation does not pay for a graph that it would not use. Where it cannot be captured, it goes
    on running as it is, and a warning says so.
    """

    def __init__(self, function: Function, device: torch.device) -> None:
        self._function, self._captures = function, device.type == "cuda"
        self.graphs: dict[Hashable, Graph] = {}  # the oldest first
        self._warm: set[Hashable] = set()
        # Graphs that never run at once, and whose outputs are read before another runs, can have
        # their intermediate results in the same memory.
        self._pool = torch.cuda.graph_pool_handle() if self._captures else None

    def __call__(self, key: Hashable, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """The function's outputs, which the next call may overwrite."""
        if not self._captures or torch.is_grad_enabled():
            return self._function(*inputs)
        shapes = tuple(None if given is None else (given.shape, given.dtype) for given in inputs)
        name = (key, shapes)
        if name not in self._warm:
            self._warm.add(name)
            return warmed_up(self._function, inputs)
        graph = self.graphs.get(name)
        if graph is None:
            try:
                graph = self.graphs[name] = captured(self._function, inputs, self._pool)
            except RuntimeError as error:
                log.warning("generation is slower, without CUDA graphs: %s", one_line(error))
                self._captures = False
                return self._function(*inputs)
            if len(self.graphs) > MOST_GRAPHS:
                del self.graphs[next(iter(self.graphs))]
        for own, given in zip(graph.inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        graph.graph.replay()
        return graph.outputs


def warmed_up(function: Function, inputs: Inputs) -> tuple[Tensor, ...]:
    """The outputs of a run on a stream of its own, as a capture needs one before it."""
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        outputs = function(*inputs)
    current.wait_stream(side)
    return outputs


def captured(function: Function, inputs: Inputs, pool: Any) -> Graph:
    """The function's kernels as a graph over copies of the inputs; nothing is computed yet."""
    own = tuple(None if given is None else given.clone() for given in inputs)
    graph = torch.cuda.CUDAGraph()
    # Other threads of the process may use the device meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        outputs = function(*own)
    return Graph(graph, own, outputs)


def padded(rows: int, *parts: Tensor | None) -> list[Tensor | None]:
    """The tensors (B, ...), each with rows of zeros up to `rows`."""
    return [
        part
        if part is None or len(part) == rows
        else F.pad(part, (*[0, 0] * (part.dim() - 1), 0, rows - len(part)))
        for part in parts
    ]


class Idle:
    """The decoder that a model keeps for its next generation; copies of the model keep none."""

    def __init__(self) -> None:
        self.key: Hashable = None
        self.decoder: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Idle:
        return Idle()

    def __reduce__(self) -> tuple[type[Idle], tuple[()]]:
        return Idle, ()


@contextlib.contextmanager
def reused(model: nn.Module, key: Hashable, make: Callable[[], T]) -> Iterator[T]:
    """The decoder that the model's latest generation of the same `key` left, else a new one.

    So a generation's graphs and buffers serve the next one. It is left by generations that came to
    their end, on devices with fixed shapes, and not used again once weights have changed.
    """
    weights = list(model.parameters())
    if not fixed_shapes(weights[0].device):
        yield make()
        return
    idle: Idle = model.__dict__.setdefault("_idle_decoder", Idle())
    kind = weights[0].device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    whole = (key, autocast, torch.is_inference_mode_enabled(), *map(version_of, weights))
    decoder: T | None = idle.decoder if idle.key == whole else None
    idle.key = idle.decoder = None  # its memory is free before another is made
    if decoder is None:
        decoder = make()
    yield decoder
    idle.key, idle.decoder = whole, decoder


def version_of(weight: Tensor) -> Hashable:
    """Changes with the weight's numbers, or whenever it is asked for where torch counts none."""
    return object() if weight.is_inference() else (weight.data_ptr(), weight._version)
