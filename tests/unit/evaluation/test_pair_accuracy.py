"""Scenes that were made against the true ones, and the classifier that reads them off images."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch

from cola.evaluation.scene_judge import quarters_of, trained_judge
from cola.image_captions.agreement import accuracies
from cola.image_captions.drawing import pair_of
from cola.image_captions.png import data_uri
from cola.image_captions.scenes import scene_in, scene_of
from cola.spec.data import GeneratedPairs

SPEC = GeneratedPairs()


def test_attributes_are_counted_thing_by_thing() -> None:
    truth = scene_in("top left large red circle, bottom right blue 7")
    made = scene_in("top left small red circle, bottom left blue 7")
    assert truth is not None
    found = accuracies([(truth, made)])
    assert found == {"place": 0.5, "colour": 0.5, "kind": 0.5, "size": 0.0, "scene": 0.0}
    assert set(accuracies([(truth, truth)]).values()) == {1.0}
    assert set(accuracies([(truth, None)]).values()) == {0.0}


def test_quarters_are_in_the_captions_order() -> None:
    image = torch.arange(4).reshape(1, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    parts = quarters_of(image.expand(2, 3, 16, 16))
    assert parts.shape == (8, 3, 8, 8)
    assert parts.flatten(1).float().mean(1).tolist() == [0, 1, 2, 3] * 2


@pytest.mark.slow
def test_the_classifier_reads_images_that_it_has_not_seen() -> None:
    judge = trained_judge(SPEC)
    images = torch.from_numpy(np.stack([pair_of(SPEC, number)[1] for number in range(200)]))
    truth = [scene_of(SPEC, number) for number in range(200)]
    found = accuracies(zip(truth, judge.scenes(images), strict=True))
    assert all(value > 0.95 for value in found.values()), found
    other = accuracies(zip(truth, judge.scenes(images.roll(1, 0)), strict=True))
    assert other["colour"] < 0.3


def test_a_picture_is_a_png_of_the_image() -> None:
    image = pair_of(SPEC, 3)[1]
    reader = pytest.importorskip("PIL.Image")
    from io import BytesIO

    content = base64.b64decode(data_uri(image).removeprefix("data:image/png;base64,"))
    read = np.asarray(reader.open(BytesIO(content)))
    assert (read == image.transpose(1, 2, 0)).all()
