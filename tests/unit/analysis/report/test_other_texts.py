"""Further texts, lengths beyond training and prompt lengths on a report's page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mlflow.entities import Metric as MlflowMetric

from analysis.plotting.templates import render
from analysis.report.content import page
from analysis.report.findings import findings_of
from analysis.report.runs import StudyFrames, read_study
from cola.records import Artifact
from tests.unit.analysis.store import Store

PLACE = "held_out/own/256"
MEASURED = {
    "held_out/own/likelihood/bits_per_byte": 1.0,
    f"{PLACE}/likelihood/bits_per_byte": 1.0,
    f"{PLACE}/likelihood/nll_within": 3.0,
    f"{PLACE}/likelihood/nll_beyond": 3.5,
    f"{PLACE}/likelihood/nll_more_beyond": 0.5,
    f"{PLACE}/likelihood/nll_more_beyond_half_interval": 0.25,
    "eval/continuation/accuracy": 0.5,
    "eval/continuation/accuracy_at_remainder_0": 0.5,
    "eval/continuation/accuracy_at_remainder_1": 0.25,
}


def results(more: float, kind: str) -> list[dict[str, Any]]:
    """Likelihoods on four documents: of the own text, and `more` nats a document of another's."""
    return [
        {
            "held_out": text,
            "documents_of": "own",
            "task": "likelihood",
            "metrics": {},
            "details": {
                "kind": kind,
                "by_document": [[i, 20.0 + i + extra, 10.0, 40.0] for i in range(4)],
            },
        }
        for text, extra in (("own", 0.0), ("typos", more))
    ]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> StudyFrames:
    store = Store(tmp_path_factory.mktemp("store"))
    for family, more in (("ar", 2.0), ("llada", 5.0)):
        store.run("texts", family, 0)
        run = store.run("texts", family, 1)
        values = [MlflowMetric(name, value, 2, 100) for name, value in MEASURED.items()]
        store.client.log_batch(run, metrics=values)
        text = json.dumps(results(more, "exact" if family == "ar" else "bound"))
        store.client.log_text(run, text, Artifact.EVALUATION)
    return read_study("texts", store.uri)


def test_the_page_has_a_section_of_each(frames: StudyFrames) -> None:
    content = page("texts", frames, findings_of(frames), spec={"name": "texts"}, targets=())
    assert [row[:2] for row in content["texts"].rows] == [
        ["own test text", "AR"],
        ["own test text", "LLaDA"],
        ["typos", "AR"],
        ["typos", "LLaDA"],
    ]
    assert content["context_sentences"][0].endswith("; tokens cost more there.")
    assert "accuracy_at_remainder_0" not in str(content["tasks"].rows)
    figures = [dict.fromkeys(("name", "title", "caption", "alternative", "svg"), "")]
    for template in ("report.md.j2", "report.html.j2"):
        text = render(template, content | {"figures": figures, "forecasts": []})
        for title in ("On other texts", "Beyond the training length", "By prompt length modulo"):
            assert title in text


def test_results_are_read_of_the_largest_runs_alone(frames: StudyFrames) -> None:
    largest = frames.runs[frames.runs["budget"] == frames.runs["budget"].max()]
    assert set(frames.results) == set(largest["run_id"])
