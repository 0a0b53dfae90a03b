"""No other user reads the token of this user's clusters."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from orchestration.cluster.token_file import make_token_private


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    return tmp_path / ".ray" / "auth_token"


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_a_new_token_is_private(token: Path) -> None:
    make_token_private()
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    assert len(bytes.fromhex(token.read_text())) == 32
    before = token.read_text()
    make_token_private()
    assert token.read_text() == before


def test_a_token_that_others_can_read_is_taken_from_them(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("ab" * 32)
    token.chmod(0o644)
    make_token_private()
    assert (mode(token), token.read_text()) == (0o600, "ab" * 32)


def test_a_token_of_the_environment_is_used_alone(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ab" * 32)
    make_token_private()
    assert not token.exists()


def test_a_home_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    make_token_private()
    assert (tmp_path / "file").read_text() == ""
