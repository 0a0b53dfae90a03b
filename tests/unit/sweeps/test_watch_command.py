"""`cola watch` from its first line to Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cola.errors import SpecError
from orchestration.web.access_token import AccessToken
from orchestration.web.local_server import LocalServer
from sweeps.watch_cli import show_start
from tests.conftest import write_study


@pytest.mark.slow
def test_the_command_says_where_its_page_is_and_ends_with_ctrl_c(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    study = write_study(tiny_study, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps.cli", "watch", str(study), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert said["page"] == f"{said['url']}#token={said['token']}"
        header = {"Authorization": f"Bearer {said['token']}"}
        request = urllib.request.Request(f"{said['url']}picture.json", headers=header)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["name"] == "tiny"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait(30)


def test_a_token_of_ones_own_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show_start("http://127.0.0.1:1", AccessToken(b"digest"), as_json=False)
    shown = capsys.readouterr().out
    assert shown.startswith("http://127.0.0.1:1/\nThe page asks for the token that ")
    show_start("http://127.0.0.1:1", AccessToken(b"digest", "made-here"), as_json=False)
    assert capsys.readouterr().out.startswith("http://127.0.0.1:1/#token=made-here\n")


def test_a_port_of_another_server_is_refused() -> None:
    with LocalServer(0) as other:
        port = other.server_address[1]
        with pytest.raises(SpecError, match=f"--port {port}: cannot be listened on"):
            LocalServer(port)
