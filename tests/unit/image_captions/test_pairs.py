"""Generated pairs: captions are the truth, and images show it."""

from __future__ import annotations

import numpy as np
import pytest

from cola.image_captions.drawing import pair_of
from cola.image_captions.scenes import (
    COLOURS,
    QUARTERS,
    Thing,
    caption_of,
    scene_in,
    scene_of,
)
from cola.spec.data import GeneratedPairs

SPEC = GeneratedPairs(documents=300)


def test_a_pair_depends_on_its_number_and_the_seed_alone() -> None:
    text, image = pair_of(SPEC, 7)
    again = pair_of(SPEC.model_copy(update={"documents": 8}), 7)
    assert text == again[0] == caption_of(scene_of(SPEC, 7))
    assert (image == again[1]).all()
    assert image.shape == SPEC.image_shape
    assert image.dtype == np.uint8
    other = pair_of(SPEC.model_copy(update={"seed": 3}), 7)
    assert other[0] != text
    assert (other[1] != image).any()


def test_captions_are_read_back_and_nothing_else_is_one() -> None:
    scenes = [scene_of(SPEC, number) for number in range(300)]
    assert [scene_in(caption_of(scene)) for scene in scenes] == scenes
    assert {len(scene) for scene in scenes} == {1, 2}
    assert {thing.quarter for scene in scenes for thing in scene} == set(QUARTERS)
    for text in (
        "", "top left red", "top left red circle", "top left small red 7", "top left 7 red",
        "bottom left red 7, top left red 7", "top left red 7, top left red 7",
        "top left small red circle,", "top left small red circle and more",
    ):  # fmt: skip
        assert scene_in(text) is None, text


def test_things_are_where_and_of_what_colour_the_caption_says() -> None:
    channels = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1), "cyan": (1, 2),
                "magenta": (0, 2)}  # fmt: skip
    for number in range(100):
        scene, (_, image) = scene_of(SPEC, number), pair_of(SPEC, number)
        things = {thing.quarter: thing for thing in scene}
        for index, quarter in enumerate(QUARTERS):
            row, column = divmod(index, 2)
            part = image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].astype(int)
            bright = tuple(c for c in range(3) if part[c].max() > 140)
            wanted = channels[things[quarter].colour] if quarter in things else ()
            assert bright == wanted, (number, quarter)


@pytest.mark.parametrize("size", [16, 32])
def test_large_shapes_are_larger_and_digits_differ(size: int) -> None:
    from cola.image_captions.drawing import drawing_of

    def area(thing: Thing) -> int:
        image = drawing_of((thing,), size, np.random.default_rng(0))
        return int((image.max(0) > 140).sum())

    for kind in ("circle", "square", "triangle", "cross"):
        small, large = (area(Thing("top left", "red", kind, s)) for s in ("small", "large"))
        assert 0 < small < large < (size // 2) ** 2
    drawn = {
        drawing_of(
            (Thing("top left", "red", str(d), None),), size, np.random.default_rng(0)
        ).tobytes()
        for d in range(10)
    }
    assert len(drawn) == 10
    assert len(COLOURS) == 6
