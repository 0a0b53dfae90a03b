"""The page's server: everybody gets the page, and the picture who has the token."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from orchestration.state.event_log import EventLog
from orchestration.state.paths import study_folder
from orchestration.watch import server as watch_server
from orchestration.watch.server import Pictures, Watch, WatchHandler
from orchestration.watch.study import StudyWatch
from orchestration.web.access_token import AccessToken, digest_of
from orchestration.web.local_server import LocalServer
from tests.unit.orchestration.watch.states import events_file, study_of

TOKEN = "a-token-of-the-tests"


@contextmanager
def served(watch: Watch) -> Iterator[str]:
    """The address of a page that follows this."""
    stop, token = threading.Event(), AccessToken(digest_of(TOKEN))
    with LocalServer(0) as server:
        handler = partial(WatchHandler, Pictures(watch), token)
        thread = threading.Thread(target=server.serve, args=(handler, stop))
        thread.start()
        try:
            yield server.url
        finally:
            stop.set()
            thread.join()


def ask(url: str, place: str, method: str = "GET", **headers: str) -> tuple[int, Any, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request(method, place, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read().decode()
    connection.close()
    return found


def test_who_has_no_token_gets_a_page_without_data(tiny_study: dict[str, Any]) -> None:
    with served(StudyWatch(study_of(tiny_study))) as url:
        for place in ("/", "/watch.js", "/watch.css"):
            status, headers, text = ask(url, place)
            assert (status, "tiny" in text) == (200, False)
            assert "script-src 'self'" in headers["Content-Security-Policy"]
            assert "unsafe" not in headers["Content-Security-Policy"]
        assert ask(url, "/picture.json")[0] == 401
        assert ask(url, "/picture.json", Authorization="Bearer another-token")[0] == 401
        assert ask(url, "/picture.json", "POST", Authorization=f"Bearer {TOKEN}")[0] == 405
        assert ask(url, "/", Host="elsewhere.example")[0] == 403
        assert ask(url, "/etc/passwd", Authorization=f"Bearer {TOKEN}")[0] == 404


def test_a_picture_is_sent_again_once_files_have_changed(
    tiny_study: dict[str, Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(watch_server, "READ_SECONDS", 0.0)
    study = study_of(tiny_study)
    with served(StudyWatch(study)) as url:
        with_token = {"Authorization": f"Bearer {TOKEN}"}
        status, headers, text = ask(url, "/picture.json", **with_token)
        assert (status, json.loads(text)["state"]) == (200, "not begun")
        again = {**with_token, "If-None-Match": headers["ETag"]}
        assert ask(url, "/picture.json", **again)[::2] == (304, "")
        EventLog(study_folder(study)).write("launched", "<b>x</b>", "attempt 1")
        status, _, text = ask(url, "/picture.json", **again)
        assert (status, json.loads(text)["events"][0]["run"]) == (200, "<b>x</b>")
        events_file(study).unlink()
        events_file(study).mkdir()
        status, _, text = ask(url, "/picture.json", **again)
        assert status == 503
        assert f"{events_file(study)}: cannot be read" in json.loads(text)["error"]
