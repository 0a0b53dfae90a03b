"""From a target of core parameters to the shape of a stack of equal layers (torch-free).

Core parameters are everything but token embeddings and head. A small grid of depth, width and MLP
width is searched: the shape closest to the usual proportions among those that meet the target
within tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from cola.compute.flops import trunk_layer_parameters
from cola.errors import SpecError

HARDWARE_FROM = 1_000_000  # core parameters from which widths are multiples of 64
TOLERANCE, SMALL_TOLERANCE = 0.0049, 0.014  # so that two families differ by < 1% (3% below 1 M)
FFN_RATIO = 4.0  # of the width, as in the paper's row (three SwiGLU matrices of 2048 x 8192)
ERROR_WEIGHT = 20.0
SMALLEST = 50_000  # core parameters from which every built-in family has a shape
# The paper's row of AR and LLaDA (docs/model.md, Sizes).
PAPER_TRUNK = {"hidden_size": 2048, "ffn_size": 8192, "num_layers": 27, "num_heads": 16}

Model = TypeVar("Model")


@dataclass(frozen=True)
class Shape:
    """A stack of equal layers."""

    layers: int
    width: int
    ffn: int
    parameters: int


def size_by_total(
    name: str,
    total_parameters: int,
    vocab_size: int,
    *,
    size: Callable[[int], tuple[Model, int]],
) -> Model:
    """The model with this many parameters in all, embeddings included.

    `size` takes a number of core parameters, and returns the model and its parameters in all.

    Raises:
        SpecError: when embeddings leave no core, or no shape comes within the tolerance.
    """
    core, best = total_parameters, None
    for _ in range(20):
        try:
            model, total = size(max(core, SMALLEST))
        except SpecError:
            core = round(core * 0.99)
            continue
        if best is None or abs(total - total_parameters) < best[0]:
            best = (abs(total - total_parameters), model, total)
        core = round(core + (total_parameters - total))
        if core <= 0 or best[0] == 0:
            break
    if best is None or best[0] > 2 * tolerance(total_parameters) * total_parameters:
        reached = best[2] if best else 0
        raise SpecError(
            f"{total_parameters} parameters in all cannot be met by {name} with a vocabulary of "
            f"{vocab_size} (the nearest is {reached}); choose more, or matching.parameters=core"
        )
    return best[1]


def no_shape(name: str, core_parameters: int, error: SpecError) -> SpecError:
    """The refusal of a size for which a part of family `name` has no shape."""
    remedy = f"at least {SMALLEST}" if core_parameters < SMALLEST else "more"
    return SpecError(
        f"{core_parameters} cannot be met by {name}: {error}; use {remedy}, or other settings of "
        f"families.{name}"
    )


def check_core(name: str, core_parameters: int, reached: int) -> None:
    """Refuse a model of family `name` that misses the target of core parameters.

    Raises:
        SpecError: with the nearest size that can be built.
    """
    if abs(reached / core_parameters - 1) > tolerance(core_parameters):
        enough = f" or at least {SMALLEST}" if core_parameters < SMALLEST else ""
        raise SpecError(
            f"{core_parameters} cannot be met by {name} (the nearest is {reached}); "
            f"use {reached}{enough}"
        )


def trunk_sizes(target: int) -> dict[str, int]:
    """Sizes of a Llama trunk with about this many core parameters, named as in a specification."""
    shape = _trunk_shape(target)
    return {
        "hidden_size": shape.width,
        "ffn_size": shape.ffn,
        "num_layers": shape.layers,
        "num_heads": shape.width // head_dim(shape.width),
    }


@cache
def _trunk_shape(target: int) -> Shape:
    return best_shape(
        target,
        lambda layers, width, ffn: layers * trunk_layer_parameters(width, ffn) + width,
        width_step(target),
        wanted_aspect=aspect(target),
    )


def tolerance(core_parameters: float) -> float:
    """Largest relative deviation of a family's core parameters from the target."""
    return TOLERANCE if core_parameters >= HARDWARE_FROM else SMALL_TOLERANCE


def width_step(target: float) -> int:
    """Widths are multiples of this."""
    return 64 if target >= HARDWARE_FROM else 16


def aspect(target: float) -> float:
    """Usual width over depth: 24 at 0.2 M, 76 at 1.8 B (the paper's 2048 / 27)."""
    return 24.0 * (max(target, 1e4) / 2e5) ** 0.126


@cache
def head_dim(width: int) -> int:
    """Width of an attention head: 128 in wide models, down to 16; it divides the width."""
    wanted = 128 if width >= 2048 else 64 if width >= 384 else 32 if width >= 96 else 16
    while width % wanted:
        wanted //= 2
    return wanted


def best_shape(
    target: float,
    size: Callable[[int, int, int], int],
    step: int,
    *,
    wanted_aspect: float,
    tuned: bool = True,
    scale: float | None = None,
    unit: int | None = None,
) -> Shape:
    """The shape of least penalty: distance from the target (relative to `scale`) and oddness.

    MLP widths are multiples of `unit` (None: of one that grows with the width).
    """
    scale = scale or target
    best, least = None, math.inf
    for layers, width in _candidates(target, step):
        ffns = iter([4 * width])
        if tuned:
            ffns = _ffn_candidates(target, size, layers, width=width, unit=unit)
        for ffn in ffns:
            parameters = size(layers, width, ffn)
            error = abs(parameters - target) / scale
            odd = abs(math.log(width / (wanted_aspect * layers)))
            odd += abs(math.log(ffn / (FFN_RATIO * width)))
            over = max(0.0, error - tolerance(scale)) if tuned else error
            penalty = odd + ERROR_WEIGHT * over * (100 if tuned else 1)
            if penalty < least:
                best, least = Shape(layers, width, ffn, parameters), penalty
    if best is None:
        raise SpecError(
            f"{max(0.0, target):.0f} parameters are left for a part of it, too few for any shape"
        )
    return best


def _candidates(target: float, step: int) -> Iterator[tuple[int, int]]:
    """Depths and widths whose square part alone does not exceed the target by far."""
    target = max(target, 0.0)
    for layers in range(1, 129):
        widest = int((1.5 * target / (4 * layers)) ** 0.5)
        narrowest = max(step, widest // 6 // step * step)
        for width in range(narrowest, widest + step, step):
            yield layers, width


def _ffn_candidates(
    target: float,
    size: Callable[[int, int, int], int],
    layers: int,
    *,
    width: int,
    unit: int | None,
) -> Iterator[int]:
    """MLP widths around the one that meets the target (sizes are linear in it)."""
    unit = unit or (64 if width >= 1024 else 32 if width >= 512 else 16)
    zero, one = size(layers, width, 0), size(layers, width, unit)
    wanted = (target - zero) / (one - zero)
    for multiple in {math.floor(wanted), math.ceil(wanted)}:
        if width <= multiple * unit <= 8 * width:
            yield multiple * unit
