"""A step of fixed shapes: a CUDA graph that is replayed on a GPU, a plain call elsewhere.

A pass of a decoder is hundreds of kernels of a few microseconds each, which a GPU finishes sooner
than Python starts them. A graph starts them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Inputs = tuple[Tensor | None, ...]
Function = Callable[..., tuple[Tensor, ...]]


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
    generation does not pay for a graph that it would not use.
    """

    def __init__(self, function: Function, device: torch.device) -> None:
        self._function, self._captures = function, device.type == "cuda"
        self._graphs: dict[Hashable, Graph | None] = {}

    def __call__(self, key: Hashable, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """The function's outputs; the next call of the same key overwrites them."""
        if not self._captures or torch.is_grad_enabled():
            return self._function(*inputs)
        shapes = tuple(None if given is None else (given.shape, given.dtype) for given in inputs)
        name = (key, shapes)
        if name not in self._graphs:
            self._graphs[name] = None
            return warmed_up(self._function, inputs)
        graph = self._graphs[name]
        if graph is None:
            graph = self._graphs[name] = captured(self._function, inputs)
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


def captured(function: Function, inputs: Inputs) -> Graph:
    """The function's kernels as a graph over copies of the inputs; nothing is computed yet."""
    own = tuple(None if given is None else given.clone() for given in inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
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
