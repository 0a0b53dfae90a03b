"""What a generated image shows, and the captions that say it: a truth that both are judged by.

A scene has one or several things, each in a quarter of the image of its own. A caption names them
quarter by quarter, from the top left on, and each scene has exactly one caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cola.spec.data import GeneratedPairs

QUARTERS = ("top left", "top right", "bottom left", "bottom right")
COLOURS = ("red", "green", "blue", "yellow", "cyan", "magenta")
SHAPES = ("circle", "square", "triangle", "cross")
DIGITS = tuple(str(digit) for digit in range(10))
KINDS = (*SHAPES, *DIGITS)
SIZES = ("small", "large")  # of shapes; digits have one


@dataclass(frozen=True)
class Thing:
    """A shape or digit of a colour in a quarter; `size` is None of digits. All are words."""

    quarter: str
    colour: str
    kind: str
    size: str | None

    def words(self) -> str:
        """The thing in a caption."""
        size = "" if self.size is None else f"{self.size} "
        return f"{self.quarter} {size}{self.colour} {self.kind}"


Scene = tuple[Thing, ...]  # in the order of their quarters


def scene_of(spec: GeneratedPairs, number: int) -> Scene:
    """The scene of the pair of that number."""
    return drawn_scene(spec, generator_of(spec, number))


def generator_of(spec: GeneratedPairs, number: int) -> np.random.Generator:
    """All draws of a pair, the scene's first, whatever other pairs there are."""
    return np.random.default_rng([spec.seed, number])


def drawn_scene(spec: GeneratedPairs, generator: np.random.Generator) -> Scene:
    """A scene: each number of things is as likely, and so is each thing in each free quarter."""
    count = int(generator.integers(1, spec.things + 1))
    quarters = sorted(generator.permutation(len(QUARTERS))[:count].tolist())
    return tuple(_drawn_thing(QUARTERS[quarter], generator) for quarter in quarters)


def _drawn_thing(quarter: str, generator: np.random.Generator) -> Thing:
    colour, kind, size = (int(generator.integers(len(of))) for of in (COLOURS, KINDS, SIZES))
    shape = KINDS[kind] in SHAPES
    return Thing(quarter, COLOURS[colour], KINDS[kind], SIZES[size] if shape else None)


def caption_of(scene: Scene) -> str:
    """The scene's caption."""
    return ", ".join(thing.words() for thing in scene)


def scene_in(caption: str) -> Scene | None:
    """The scene of a caption; None where it is no scene's."""
    things = [_thing_in(part.split(" ")) for part in caption.strip().split(", ")]
    scene = tuple(thing for thing in things if thing is not None)
    places = [QUARTERS.index(thing.quarter) for thing in scene]
    in_order = places == sorted(set(places))
    return scene if in_order and len(scene) == len(things) else None


def _thing_in(words: Sequence[str]) -> Thing | None:
    if len(words) not in (4, 5):
        return None
    quarter, colour, kind = " ".join(words[:2]), words[-2], words[-1]
    size = words[2] if len(words) == 5 else None
    known = quarter in QUARTERS and colour in COLOURS and kind in KINDS
    sized = size in SIZES if kind in SHAPES else size is None
    return Thing(quarter, colour, kind, size) if known and sized else None
