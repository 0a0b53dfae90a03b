"""At which settings a family's generation is measured: a base, and keys that are varied from it."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml

from cola.errors import SpecError
from cola.spec import GenerationSpec
from cola.spec.yaml_text import parse_yaml

Axes = Mapping[str, Sequence[Any]]

# Chosen: temperatures and cut-offs between the mode and the model as it is, guidance up to the
# public release's, and a quarter to twice the usual steps.
AXES: Axes = {
    "temperature": (0.0, 0.5, 0.7, 0.85, 1.15),
    "top_p": (0.5, 0.8, 0.9, 0.95),
    "guidance_scale": (1.5, 2.0, 3.0),
    "unmasking_guidance_scale": (1.5, 2.0),
    "steps": (2, 4, 8, 16, 32),
    "tokens_per_pass": (2, 4, 8),
}
PREFIX = "generation."


def axes_of(given: Sequence[str]) -> Axes:
    """The keys to vary by texts such as `generation.temperature=0.5,0.7`; none given: `AXES`.

    Raises:
        SpecError: one has another form, or a key that is no axis.
    """
    axes: dict[str, list[Any]] = {}
    for text in given:
        path, separator, listed = text.partition("=")
        key = path.strip().removeprefix(PREFIX)
        if not separator or not path.strip().startswith(PREFIX) or key not in AXES:
            known = ", ".join(f"{PREFIX}{name}" for name in AXES)
            raise SpecError(f"--vary {text}: write it as KEY=VALUE,VALUE; keys: {known}")
        try:
            axes[key] = [parse_yaml(value) for value in listed.split(",")]
        except yaml.YAMLError:
            raise SpecError(f"--vary {text}: a value is not valid YAML") from None
    return axes or AXES


def sampling_points(
    base: GenerationSpec, axes: Axes, read: Collection[str], *, crossed: bool = False
) -> list[GenerationSpec]:
    """The base and what differs from it in one key, or with `crossed` every combination; each once,
    of the keys alone that a family reads.

    Raises:
        SpecError: a value is none that its key can have.
    """
    mine = {key: values for key, values in axes.items() if key in read}
    if crossed:
        whole = [[getattr(base, key), *values] for key, values in mine.items()]
        changes = [dict(zip(mine, chosen, strict=True)) for chosen in itertools.product(*whole)]
    else:
        changes = [{key: value} for key, values in mine.items() for value in values]
    points: dict[str, GenerationSpec] = {}
    for point in (base, *(changed(base, change) for change in changes)):
        points.setdefault(_effective(point), point)
    return list(points.values())


def changed(base: GenerationSpec, change: Mapping[str, Any]) -> GenerationSpec:
    """The settings with some keys changed.

    Raises:
        SpecError: a value is none that its key can have.
    """
    return GenerationSpec.parse(base.model_dump(mode="json") | dict(change), origin="--vary")


def _effective(point: GenerationSpec) -> str:
    """What tells settings apart: more tokens a pass than there are make one pass too."""
    most = min(point.tokens_per_pass, point.max_new_tokens)
    return point.model_copy(update={"tokens_per_pass": most}).canonical_json()


def differences(point: GenerationSpec, base: GenerationSpec) -> dict[str, Any]:
    """The keys of a point that are not the base's, with their values."""
    own, other = point.model_dump(mode="json"), base.model_dump(mode="json")
    return {key: value for key, value in own.items() if value != other[key]}


def neighbours(points: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Pairs of settings that differ in one key alone, in which no third one lies between them:
    what a frontier is drawn through. Settings have the same keys; None of a cut-off is 1."""
    found = []
    for key in points[0]:
        lines: dict[tuple[Any, ...], list[int]] = {}
        for place, point in enumerate(points):
            rest = tuple(value for name, value in point.items() if name != key)
            lines.setdefault(rest, []).append(place)
        for line in lines.values():
            ordered = sorted(line, key=lambda place: _number(points[place][key]))
            found += list(itertools.pairwise(ordered))
    return found


def _number(value: Any) -> float:
    return 1.0 if value is None else float(value)
