"""COLA_LOG on a joined cluster: handed to its processes once, by the session or by the Ray job."""

from __future__ import annotations

import json

import pytest

from cola.logs import VARIABLE
from orchestration.cluster.session import log_environment


def test_a_session_hands_on_what_its_ray_job_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert log_environment() is None
    monkeypatch.setenv(VARIABLE, "debug")
    assert log_environment() == {"env_vars": {VARIABLE: "debug"}}
    job = {"runtime_env": {"env_vars": {"COLUMNS": "160"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert log_environment() == {"env_vars": {VARIABLE: "debug"}}
    job["runtime_env"]["env_vars"][VARIABLE] = "debug"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert log_environment() is None
