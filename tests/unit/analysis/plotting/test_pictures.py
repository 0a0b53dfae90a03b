"""The part of a report that is of texts and images."""

from __future__ import annotations

from analysis.plotting.pictures import (
    accuracy_table,
    described_images,
    drawn_images,
    is_picture,
)
from cola.records import Metric

TEXT = {"prompt": "a", "continuation": "b", "prompt_image": None, "image": None}
DRAWN = {"prompt": "red 7", "continuation": "", "image": "data:1", "variant": "mm"}
SAID = {"prompt": "", "continuation": "red 1", "prompt_image": "data:2", "variant": "mm"}


def test_accuracies_are_rows_by_what_they_are_of() -> None:
    metrics = {
        Metric.diagnostic(f"{of}_accuracy/{name}"): value
        for of, value in (("image", 0.5), ("judge", 0.99))
        for name in ("place", "colour", "scene")
    }
    shown = accuracy_table([("mm-1e12", metrics), ("ar-1e12", {})])
    assert shown is not None
    text = str(shown)
    assert "drawn images" in text
    assert "50.0%" in text
    assert "99.0%" in text
    assert "written captions" not in text
    assert "ar-1e12" not in text
    assert accuracy_table([("ar-1e12", {})]) is None


def test_pictures_are_told_from_continuations_and_grouped_by_what_was_given() -> None:
    assert [is_picture(sample) for sample in (TEXT, DRAWN, SAID)] == [False, True, True]
    samples = [TEXT, DRAWN, DRAWN | {"variant": "other"}, SAID]
    (group,) = drawn_images(samples)
    assert group["given"] == "red 7"
    assert [sample["variant"] for sample in group["made"]] == ["mm", "other"]
    (group,) = described_images(samples)
    assert group["given"] == "data:2"
