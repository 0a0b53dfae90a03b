"""What models of texts and images draw and write, and how much of it is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.plotting.page_table import Column, Table, table
from cola.records import SCENE_ATTRIBUTES, Metric

EXPLANATION = (
    "Of held-out captions and images, attribute by attribute: place counts the quarters of an "
    "image that are rightly taken or empty, colour, kind and size the things of a caption that are "
    "there with the same, scene what is right as a whole. Drawn images are read by a classifier "
    "that was trained on other generated images; what it reads off the true images is the most "
    "that it can confirm, and the scene of another caption is chance. A caption that is not of the "
    "corpus' form counts as wrong in everything."
)
MEASURED = {
    "image": "drawn images",
    "caption": "written captions",
    "judge": "true images, read by the classifier",
    "chance": "another caption's scene",
}


def accuracy_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Table | None:
    """Rows for each (name of a run, metrics by their names in MLflow) of texts and images; None
    where there is none."""
    cells = [
        {"name": name, "what": label} | {a: shown(found, measured, a) for a in SCENE_ATTRIBUTES}
        for name, found in rows
        for measured, label in MEASURED.items()
        if value_of(found, measured, "scene") is not None
    ]
    columns = [Column("name", "run"), Column("what", "of")]
    return table([*columns, *(Column(name, name) for name in SCENE_ATTRIBUTES)], cells)


def value_of(found: Mapping[str, Any], measured: str, attribute: str) -> float | None:
    """An accuracy among a run's metrics; None where it has none."""
    value = found.get(Metric.diagnostic(f"{measured}_accuracy/{attribute}"))
    return None if value is None or pd.isna(value) else float(value)


def shown(found: Mapping[str, Any], measured: str, attribute: str) -> str:
    """An accuracy for people."""
    value = value_of(found, measured, attribute)
    return "–" if value is None else f"{value:.1%}"


def is_picture(sample: Mapping[str, Any]) -> bool:
    """Whether a sample is of an image."""
    return bool(sample.get("image") or sample.get("prompt_image"))


def drawn_images(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Captions with the images that each model drew for them."""
    return _grouped([sample for sample in samples if sample.get("image")], "prompt")


def described_images(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Images with the captions that each model wrote for them."""
    return _grouped([sample for sample in samples if sample.get("prompt_image")], "prompt_image")


def _grouped(samples: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(str(sample[key]), []).append(sample)
    return [{"given": given, "made": made} for given, made in groups.items()]
