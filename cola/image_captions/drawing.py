"""Images of generated scenes. What a caption does not say (the exact place, the shade, the
background and its noise) is drawn at random.

Shapes: S pixels a side, Q = S / 2 of a quarter.
"""

from __future__ import annotations

import numpy as np

from cola.image_captions.scenes import (
    DIGITS,
    QUARTERS,
    Scene,
    Thing,
    caption_of,
    drawn_scene,
    generator_of,
)
from cola.spec.data import GeneratedPairs

CHANNELS = 3
# Of the colours of `scenes.COLOURS`, red, green and blue.
SHADES = {
    "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1),
    "yellow": (1, 1, 0), "cyan": (0, 1, 1), "magenta": (1, 0, 1),
}  # fmt: skip
# Chosen so that every thing stands out: levels of 255 of a thing and of the background.
BRIGHT, DARK, NOISE = (180, 240), (10, 70), 5.0
# Radius of shapes and how far they may be moved, in quarters' widths.
RADIUS, SHIFT = {"small": 0.22, "large": 0.38}, 0.1
# Of each digit, five rows of three pixels as binary numbers: the common font of 3 x 5.
GLYPHS = ("75557", "26227", "71747", "71717", "55711", "74717", "74757", "71111", "75757", "75717")
FONT = {
    digit: np.array([[int(row) >> bit & 1 for bit in (2, 1, 0)] for row in glyph])
    for digit, glyph in zip(DIGITS, GLYPHS, strict=True)
}


def pair_of(spec: GeneratedPairs, number: int) -> tuple[str, np.ndarray]:
    """Caption and image (3, S, S) uint8 of the pair of that number."""
    generator = generator_of(spec, number)
    scene = drawn_scene(spec, generator)
    return caption_of(scene), drawing_of(scene, spec.image_size, generator)


def drawing_of(scene: Scene, size: int, generator: np.random.Generator) -> np.ndarray:
    """An image of the scene, (3, S, S) uint8."""
    image = np.full((CHANNELS, size, size), generator.uniform(*DARK))
    quarter = size // 2
    for thing in scene:
        row, column = divmod(QUARTERS.index(thing.quarter), 2)
        part = image[:, row * quarter :, column * quarter :][:, :quarter, :quarter]
        shade = np.array(SHADES[thing.colour]) * generator.uniform(*BRIGHT)
        mask = _mask(thing, quarter, generator)
        part[:, mask] = np.maximum(shade, DARK[0])[:, None]
    image += generator.normal(0.0, NOISE, image.shape)
    return image.round().clip(0, 255).astype(np.uint8)


def _mask(thing: Thing, quarter: int, generator: np.random.Generator) -> np.ndarray:
    """(Q, Q), True where the thing is."""
    if thing.size is None:
        return _glyph_mask(thing.kind, quarter, generator)
    middle = quarter / 2 + generator.uniform(-SHIFT, SHIFT, 2) * quarter
    y, x = (np.arange(quarter) + 0.5)[:, None] - middle[0], np.arange(quarter) + 0.5 - middle[1]
    radius = RADIUS[thing.size] * quarter
    if thing.kind == "circle":
        return np.asarray(x**2 + y**2 <= radius**2)
    inside = (abs(x) <= radius) & (abs(y) <= radius)
    if thing.kind == "square":
        return inside
    if thing.kind == "triangle":
        return inside & (2 * abs(x) <= y + radius)
    return inside & (np.minimum(abs(x) + 0 * y, abs(y) + 0 * x) <= 0.35 * radius)


def _glyph_mask(digit: str, quarter: int, generator: np.random.Generator) -> np.ndarray:
    scale = max(1, quarter // 7)
    glyph = np.kron(FONT[digit], np.ones((scale, scale), dtype=bool)).astype(bool)
    mask = np.zeros((quarter, quarter), dtype=bool)
    top, left = (int(generator.integers(1, quarter - extent)) for extent in glyph.shape)
    mask[top : top + glyph.shape[0], left : left + glyph.shape[1]] = glyph
    return mask
