"""How well a model draws what captions say, and says what images show.

B batch, L tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from cola.data import TextTokenizer
from cola.evaluation.scene_judge import trained_judge
from cola.families.interface.family import Family
from cola.image_captions.agreement import accuracies
from cola.image_captions.scenes import Scene, scene_in
from cola.records import SampleRecord
from cola.seeding import Stream
from cola.spec import GenerationSpec
from cola.spec.data import GeneratedPairs


class PictureRecord(SampleRecord):
    """A line of `samples.jsonl` that is of an image: drawn for the prompt, or described by the
    continuation. Images are `data:` addresses."""

    prompt_image: str | None = None
    image: str | None = None


def caption_in(tokens: Tensor | np.ndarray, tokenizer: TextTokenizer) -> str:
    """The text in front of the first end of text."""
    ids = tokens.tolist()
    end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
    return tokenizer.decode(ids[:end])


def pair_accuracy(
    family: Family,
    model: Any,
    tokens_BL: Tensor,
    images: Tensor,
    *,
    settings: GenerationSpec,
    stream: Stream,
    tokenizer: TextTokenizer,
    source: GeneratedPairs,
) -> dict[str, float]:
    """Accuracies by attribute (see `cola.image_captions.agreement`) of drawn images and written
    captions, and beside them what the judge reads off the true images, and chance: the scene of
    another caption. Nothing of a family of texts alone."""
    drawn = family.draw_images(model, tokens_BL, settings, stream=stream)
    length = tokens_BL.shape[1]
    written = family.describe_images(model, images, length, settings=settings, stream=stream)
    if drawn is None or written is None:
        return {}
    judge = trained_judge(source)
    truth = [known_scene(caption_in(row, tokenizer)) for row in tokens_BL]
    made: dict[str, list[Scene | None]] = {
        "image": list(judge.scenes(drawn)),
        "caption": [scene_in(caption_in(row, tokenizer)) for row in written],
        "judge": list(judge.scenes(images)),
        "chance": [*truth[1:], truth[0]],
    }
    return {
        f"{name}_accuracy/{attribute}": value
        for name, scenes in made.items()
        for attribute, value in accuracies(zip(truth, scenes, strict=True)).items()
    }


def known_scene(caption: str) -> Scene:
    """The scene of a caption of the corpus."""
    scene = scene_in(caption)
    assert scene is not None, caption
    return scene
