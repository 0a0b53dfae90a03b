"""Links to the pages of MLflow that show runs, by what its server answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.cli.results import mlflow_pages
from orchestration.tracking.pages import runs_page, study_pages

ANSWER = {
    "experiments": [
        {"experiment_id": "0", "name": "Default", "lifecycle_stage": "active"},
        {"experiment_id": "7", "name": "tiny", "lifecycle_stage": "active"},
    ]
}


class Answers(BaseHTTPRequestHandler):
    """What MLflow's server answers to a search of experiments."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path.startswith("/api/2.0/mlflow/experiments/") else 404)
        self.end_headers()
        self.wfile.write(json.dumps(ANSWER).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{answering.server_port}"
        answering.shutdown()


def test_every_study_of_a_server_has_a_page(server: str) -> None:
    assert study_pages(server) == {"tiny": f"{server}/{runs_page('7')}"}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (None, "cola mlflow --output /out"),
        ("sqlite:////data/my runs.db", "cola mlflow --store 'sqlite:////data/my runs.db' --output"),
        ("http://127.0.0.1:9", "MLflow at http://127.0.0.1:9"),
        ("env:TRACKING", "MLflow at env:TRACKING"),
    ],
)
def test_a_study_ends_with_the_way_to_its_runs(
    tiny_study: dict[str, Any], monkeypatch: pytest.MonkeyPatch, uri: str | None, shown: str
) -> None:
    monkeypatch.setenv("TRACKING", "http://secret.example")
    study = StudySpec.parse(tiny_study | {"tracking": {"uri": uri}})
    assert mlflow_pages(study, " --output /out").startswith(shown)


def test_a_study_on_a_server_ends_with_its_page(tiny_study: dict[str, Any], server: str) -> None:
    study = StudySpec.parse(tiny_study | {"tracking": {"uri": f"{server}/"}})
    assert mlflow_pages(study, "") == f"{server}/{runs_page('7')}"
    other = study.model_copy(update={"name": "other"})
    assert mlflow_pages(other, "") == f"MLflow at {server}/"
