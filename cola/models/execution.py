"""How a training pass runs the blocks of its networks: compiled, and with activation checkpointing.

A network passes its blocks through `run_block`. Outside of a training pass (`executing`) that is
the plain call: validation and generation have other shapes, which would be compiled anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import torch
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")
# Of one kind of block, over a run's stages and numbers of rows (chosen; torch's own limit is 8, and
# it fails behind it). A run has two to six.
COMPILED_FORMS = 64


@dataclass(frozen=True)
class BlockExecution:
    """How blocks run: compiled by `backend` (None: not), their activations kept or recomputed."""

    backend: str | None = None
    checkpoints: bool = False


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
