"""How a training pass runs the blocks of its networks: compiled, and with activation checkpointing.

A network passes its blocks through `run_block`. Outside of a training pass (`executing`) that is
the plain call: validation and generation have other shapes, which would be compiled anew. Where
some of a step's micro-batches have a sequence less than others, the network fills up their rows in
front of its blocks (`filled`) and drops them behind, so that one compiled form serves all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")
# Of one kind of block, over a run's stages and numbers of rows (chosen; torch's own limit is 8, and
# it fails behind it). A run has two to six.
COMPILED_FORMS = 64


@dataclass(frozen=True)
class BlockExecution:
    """How blocks run: compiled by `backend` (None: not), their activations kept or recomputed.

    A pass of `given` sequences is filled up to `rows`; None: it has the rows that it is given.
    """

    backend: str | None = None
    checkpoints: bool = False
    rows: int | None = None
    given: int | None = None

    def of_pass(self, given: int) -> BlockExecution:
        """For a pass of so many sequences."""
        return self if self.rows is None else replace(self, given=given)


PLAIN = BlockExecution()
_execution: ContextVar[BlockExecution] = ContextVar("execution", default=PLAIN)


@contextmanager
def executing(execution: BlockExecution) -> Iterator[None]:
    """Blocks run in this way within the context."""
    token = _execution.set(execution)
    try:
        yield
    finally:
        _execution.reset(token)


def run_block(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """`function(*args, **kwargs)`, a method with its block as first argument.

    Compiled, it is one graph for all blocks of the kind, and one more for every other shape of its
    arguments. With activation checkpointing only the arguments are kept for the backward pass,
    which computes the block again: the same numbers, for a third more compute.

    Raises:
        torch._dynamo.exc.Unsupported: something in the block cannot be compiled.
    """
    if torch.compiler.is_compiling():  # the block is part of a graph that is being made
        return function(*args, **kwargs)
    execution = _execution.get()
    if execution.backend is not None:
        function = compiled(function, execution.backend)
    if execution.checkpoints and torch.is_grad_enabled():
        # Blocks draw nothing at random, so the generators' states need not be kept.
        return cast(
            Result,
            checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, **kwargs),
        )
    return function(*args, **kwargs)


def filled(part: Tensor, value: float = 0) -> Tensor:
    """The tensor (B, ...) with further rows of `value`, where compiled passes have a fixed number.

    In a network that encodes each sequence k times, B is k times the sequences of the pass, and the
    result has k times the fixed number. Whoever fills a network's inputs drops the further rows of
    its outputs (`emptied`), so that no number and no gradient comes from them.
    """
    if torch.compiler.is_compiling():  # a whole step's graph has its own rows
        return part
    execution = _execution.get()
    given, rows = execution.given, execution.rows
    if given is None or rows is None or execution.backend is None or len(part) % given:
        return part
    added = len(part) // given * rows - len(part)
    return F.pad(part, (*[0, 0] * (part.dim() - 1), 0, added), value=value) if added > 0 else part


def emptied(part: Tensor, rows: int) -> Tensor:
    """The first `rows` rows: what `filled` added is dropped."""
    return part if len(part) == rows else part[:rows]


@cache
def compiled(function: Callable[..., Result], backend: str) -> Callable[..., Result]:
    """The function as one graph of fixed shapes; nothing is compiled before the first call."""
    import torch._dynamo  # which takes a second

    for name in ("recompile_limit", "cache_size_limit"):  # the name until torch 2.6
        if hasattr(torch._dynamo.config, name):
            setattr(torch._dynamo.config, name, COMPILED_FORMS)
            break
    return torch.compile(function, backend=backend, fullgraph=True, dynamic=False)


def why_not_compiled(device: torch.device) -> str | None:
    """What this machine lacks to compile for the device; None: nothing."""
    compilers = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    if device.type == "cpu":
        compilers = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]
    elif find_spec("triton") is None:
        return "the package triton"
    if not any(name and shutil.which(name) for name in compilers):
        return f"a {'C++' if device.type == 'cpu' else 'C'} compiler"
    return None
