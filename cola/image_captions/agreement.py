"""How a scene that a model made agrees with the one that was asked for."""

from __future__ import annotations

from collections.abc import Iterable

from cola.image_captions.scenes import QUARTERS, Scene, Thing
from cola.records import SCENE_ATTRIBUTES


def accuracies(pairs: Iterable[tuple[Scene, Scene | None]]) -> dict[str, float]:
    """Shares of right attributes over all pairs of a true scene and one that was made (None: it
    is no scene, and nothing is right).

    place: quarters that are taken or empty as in the truth; colour, kind and size: of the true
    things (sizes of shapes alone), those whose quarter has a thing with the same; scene: all of it.
    """
    right: dict[str, list[bool]] = {name: [] for name in SCENE_ATTRIBUTES}
    for truth, made in pairs:
        true_of, made_of = things_of(truth), things_of(made or ())
        right["place"] += [
            made is not None and (quarter in true_of) == (quarter in made_of)
            for quarter in QUARTERS
        ]
        for quarter, thing in true_of.items():
            other = made_of.get(quarter)
            right["colour"].append(other is not None and other.colour == thing.colour)
            right["kind"].append(other is not None and other.kind == thing.kind)
            if thing.size is not None:
                right["size"].append(other is not None and other.size == thing.size)
        right["scene"].append(made == truth)
    return {name: sum(found) / len(found) for name, found in right.items() if found}


def things_of(scene: Scene) -> dict[str, Thing]:
    """The scene's things by their quarter."""
    return {thing.quarter: thing for thing in scene}
