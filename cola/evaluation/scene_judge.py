"""What images show, by a classifier that is trained on generated ones, whose truth is known.

B batch, Q pixels of the side of a quarter, c channels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cola.image_captions.agreement import things_of
from cola.image_captions.drawing import pair_of
from cola.image_captions.scenes import (
    COLOURS,
    KINDS,
    QUARTERS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    scene_of,
)
from cola.spec.data import GeneratedPairs

# Chosen: with these it reads more than 95% of each attribute of true images of 16 pixels (a test).
IMAGES, STEPS, ROWS, WIDTH, RATE = 4000, 500, 128, 32, 2e-3
SEED = 11
# Pairs of other numbers than any corpus has: no held-out image was seen.
FIRST = 1 << 40
EMPTY = len(KINDS)  # the class of a quarter without a thing
CLASSES = (len(KINDS) + 1, len(COLOURS), len(SIZES))  # of kinds, colours and sizes
UNKNOWN = -100  # a class that is not asked for: `F.cross_entropy` leaves it out


class SceneJudge(nn.Module):
    """Kind, colour and size of what a quarter of an image shows."""

    def __init__(self, quarter: int) -> None:
        super().__init__()
        half = -(-quarter // 2)
        self.features = nn.Sequential(
            nn.Conv2d(4, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(WIDTH * half**2, 4 * WIDTH),
            nn.ReLU(),
        )
        self.heads = nn.ModuleList(nn.Linear(4 * WIDTH, count) for count in CLASSES)

    def forward(self, quarters: Tensor) -> list[Tensor]:
        """Quarters (B, c, Q, Q) uint8 -> logits of their kind, colour and size."""
        levels = quarters.float() / 127.5 - 1
        brightest = levels.amax(1, keepdim=True)  # shapes and digits look alike in all colours
        features = self.features(torch.cat([levels, brightest], dim=1))
        return [head(features) for head in self.heads]

    @torch.no_grad()
    def scenes(self, images: Tensor) -> list[Scene]:
        """The scene that each image (B, c, 2 Q, 2 Q) shows."""
        kinds, colours, sizes = (
            logits.argmax(-1).unflatten(0, (-1, len(QUARTERS))).tolist()
            for logits in self(quarters_of(images))
        )
        return [
            tuple(
                Thing(quarter, COLOURS[colour], KINDS[kind], _size(kind, size))
                for quarter, kind, colour, size in zip(QUARTERS, *row, strict=True)
                if kind != EMPTY
            )
            for row in zip(kinds, colours, sizes, strict=True)
        ]


@lru_cache(maxsize=4)
def trained_judge(spec: GeneratedPairs) -> SceneJudge:
    """The judge of images of these settings, always the same."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(SEED)
        judge = SceneJudge(spec.image_size // 2)
        quarters, classes = _examples(spec)
        optimiser = torch.optim.Adam(judge.parameters(), lr=RATE)
        for step in range(STEPS):
            chosen = torch.randint(len(quarters), (ROWS,))
            losses = [
                F.cross_entropy(logits, of, ignore_index=UNKNOWN)
                for logits, of in zip(judge(quarters[chosen]), classes[chosen].T, strict=True)
            ]
            optimiser.zero_grad()
            torch.stack(losses).sum().backward()
            optimiser.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            optimiser.step()
    return judge.eval().requires_grad_(False)


def quarters_of(images: Tensor) -> Tensor:
    """(B, c, 2 Q, 2 Q) -> (4 B, c, Q, Q), those of an image in the order of `QUARTERS`."""
    size = images.shape[-1] // 2
    parts = images.unflatten(3, (2, size)).unflatten(2, (2, size))  # (B, c, 2, Q, 2, Q)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _examples(spec: GeneratedPairs) -> tuple[Tensor, Tensor]:
    """Quarters (N, c, Q, Q) and their classes (N, 3), of images that may be full of things."""
    spec = spec.model_copy(update={"things": len(QUARTERS)})
    numbers = range(FIRST, FIRST + IMAGES)
    images = np.stack([pair_of(spec, number)[1] for number in numbers])
    classes = [_classes_of(scene_of(spec, number)) for number in numbers]
    return quarters_of(torch.from_numpy(images)), torch.tensor(classes).flatten(0, 1)


def _classes_of(scene: Scene) -> list[list[int]]:
    things = things_of(scene)
    return [_class_of(things.get(quarter)) for quarter in QUARTERS]


def _class_of(thing: Thing | None) -> list[int]:
    if thing is None:
        return [EMPTY, UNKNOWN, UNKNOWN]
    size = UNKNOWN if thing.size is None else SIZES.index(thing.size)
    return [KINDS.index(thing.kind), COLOURS.index(thing.colour), size]


def _size(kind: int, size: int) -> str | None:
    return SIZES[size] if KINDS[kind] in SHAPES else None
