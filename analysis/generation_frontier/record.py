"""A study's `frontier.json` as tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cola.errors import StorageError, one_line
from cola.files import read_json
from cola.records import FRONTIER_VERSION, STUDY_FRONTIER

COST_KEYS = ("steps", "tokens_per_pass", "guidance_scale", "unmasking_guidance_scale")
REMEDY = "remove it, and `cola frontier` of the study writes it anew"


@dataclass(frozen=True)
class Quality:
    """A measure of quality: its name among a point's metrics, for people, and which way is better.

    A table's column of its standard errors is `error`.
    """

    name: str
    label: str
    lower_is_better: bool

    @property
    def error(self) -> str:
        """Name of its standard error."""
        return f"{self.name}_standard_error"


@dataclass(frozen=True)
class Frontier:
    """points: a row a setting with variant, label, setting (words), changed (keys), flops_per_token
    and metrics. edges: by variant, pairs of places among its points that a line is drawn between.
    truth: numbers of the text itself. speed: a row a curve and batch size. run_keys: of the runs
    that it was measured on."""

    points: pd.DataFrame
    edges: dict[str, list[tuple[int, int]]]
    qualities: list[Quality]
    truth: dict[str, float]
    speed: pd.DataFrame
    sentences: list[str]
    notes: list[str]
    made: str
    command: str
    run_keys: frozenset[str]

    @property
    def variants(self) -> list[str]:
        """The curves, in their order."""
        return list(dict.fromkeys(self.points["variant"]))


def read_frontier(study_folder: Path) -> Frontier | None:
    """What was measured of a study; None where nothing was.

    Raises:
        StorageError: the file is damaged, or of another version.
    """
    path = study_folder / STUDY_FRONTIER
    if not path.is_file():
        return None
    record = read_json(path, remedy=REMEDY)
    try:
        if record["version"] != FRONTIER_VERSION:
            raise StorageError(
                f"{path}: is of version {record['version']}, not {FRONTIER_VERSION}; {REMEDY}"
            )
        return _frontier(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{path}: is no record of a frontier ({type(error).__name__}: {one_line(error)}); "
            f"{REMEDY}"
        ) from None


def _frontier(record: dict[str, Any]) -> Frontier:
    points = pd.DataFrame(
        [
            {
                "variant": curve["variant"],
                "label": curve["label"],
                "setting": setting_words(point["changed"]),
                "changed": tuple(point["changed"]),
                "flops_per_token": point["flops_per_token"],
                **point["metrics"],
            }
            for curve in record["curves"]
            for point in curve["points"]
        ]
    )
    return Frontier(
        points,
        {c["variant"]: [(int(a), int(b)) for a, b in c["edges"]] for c in record["curves"]},
        shown_qualities(points, record["qualities"]),
        dict(record["held_out"]),
        speed_rows(record["curves"]),
        [match["sentence"] for match in record["comparisons"]],
        list(record["notes"]),
        record["made"],
        record["command"],
        frozenset(key for curve in record["curves"] for key in curve["run_keys"]),
    )


def setting_words(changed: dict[str, Any]) -> str:
    """What a point has changed of the base settings."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value:g}" for key, value in changed.items()
    ) or "drawn from the model as it is"  # fmt: skip


def shown_qualities(points: pd.DataFrame, known: list[dict[str, Any]]) -> list[Quality]:
    """The measures that are drawn: those that points have, Brier-1 only where some point has no
    BrierLM, and MAUVE."""
    found = [
        Quality(each["name"], each["label"], each["better"] == "lower")
        for each in [*known, {"name": "mauve", "label": "MAUVE", "better": "higher"}]
        if each["name"] in points
    ]
    whole = {each.name for each in found if points[each.name].notna().all()}
    if "brierlm" in whole:
        return [each for each in found if each.name != "brier_1"]
    return [each for each in found if each.name != "brierlm"]


def speed_rows(curves: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a curve and batch size, in their order."""
    return pd.DataFrame(
        [
            {"variant": curve["variant"], "label": curve["label"], "batch": int(batch), **found}
            for curve in curves
            for batch, found in curve["speed"].get("by_batch", {}).items()
        ]
    )


def as_table(frontier: Frontier) -> pd.DataFrame:
    """The points as a table of plain values."""
    return frontier.points.assign(changed=frontier.points["changed"].map(json.dumps))
