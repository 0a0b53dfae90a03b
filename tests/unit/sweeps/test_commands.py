"""The table of commands that `cola --help` prints, beside the commands themselves."""

from __future__ import annotations

import importlib
import inspect
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command, get_group
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.commands import COMMANDS, Entry
from tests.layout import ROOT

GROUP: Any = get_command(app)

# Commands in the order of what they load: each is called after those before it.
CALLS = """
import json, sys
from typer.testing import CliRunner
from sweeps.cli import app
HEAVY = {heavy!r}
for call in {calls!r}:
    result = CliRunner().invoke(app, call)
    kind = type(result.exception).__name__
    assert kind in ("NoneType", "SystemExit", "ClusterError", "SpecError"), (call, result.exception)
    print(json.dumps([call, sorted(name for name in HEAVY if name in sys.modules)]))
"""


def options_of(command: Any) -> set[str]:
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_a_line_of_the_table_is_its_command(entry: Entry) -> None:
    command = GROUP.commands[entry.name]
    paragraph = inspect.cleandoc(command.help).split("\n\n")[0]
    assert entry.summary == " ".join(paragraph.split())
    assert entry.hidden == command.hidden


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_examples_are_of_commands_and_options_that_exist(entry: Entry) -> None:
    for example in entry.examples:
        program, name, *words = shlex.split(example)
        command, known = GROUP.commands[name], {"--help"}
        assert (program, name) == ("cola", entry.name)
        inner = getattr(command, "commands", {})
        for each in (command, *inner.values()):
            known |= options_of(each)
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def test_every_command_is_in_the_table() -> None:
    """Whatever a module adds to its `app` is found by `cola`."""
    folders = ("orchestration/cli", "analysis", "sweeps")
    files = [path for folder in folders for path in (ROOT / folder).glob("*.py")]
    written = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files
        if "\napp = typer.Typer(" in path.read_text()
    }
    # `forecast` is mounted by `analysis.cli`; `sweeps.cli` mounts this table.
    assert written - {entry.module for entry in COMMANDS} == {"analysis.forecast_cli", "sweeps.cli"}
    groups = {entry.module for entry in COMMANDS if entry.group}
    for module in written - {"sweeps.cli", "analysis.forecast_cli"} - groups:
        own = get_group(importlib.import_module(module).app).commands
        assert set(own) == {entry.name for entry in COMMANDS if entry.module == module}


def test_commands_load_only_what_they_use() -> None:
    """Help needs no specification of a study; no answer from files needs torch, Ray or MLflow."""
    libraries = ["torch", "ray", "deepspeed", "mlflow", "transformers", "datasets", "pandas",
                 "matplotlib", "scipy"]  # fmt: skip
    calls = [
        ["--help"], ["--version"], ["fit", "--help"], ["report", "--help"], ["schema"],
        ["studies"], ["plan", "demo"], ["status", "demo"], ["clean", "x"],
        ["watch", "x"],
        ["jobs", "x", "--address", "http://127.0.0.1:1"],
        ["logs", "x", "--address", "http://127.0.0.1:1"],
    ]  # fmt: skip
    code = CALLS.format(heavy=[*libraries, "pydantic", "numpy"], calls=calls)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    loaded = {tuple(call): found for call, found in map(json.loads, shown.stdout.splitlines())}
    assert loaded["--help",] == loaded["--version",] == []
    assert loaded["report", "--help"] == loaded["fit", "--help"]
    assert set(loaded["report", "--help"]) <= {"pydantic"}
    assert set().union(*loaded.values()) <= {"pydantic", "numpy"}


def test_help_shows_panels_and_examples() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).stdout
    for entry in COMMANDS:
        assert (f"─ {entry.panel} ─" in shown) or entry.hidden
        assert (f"│ {entry.name} " in shown) != entry.hidden
    assert "cola run demo" in shown
    assert "cola plan demo" in CliRunner().invoke(app, ["plan", "--help"]).stdout


def test_a_command_that_does_not_exist_names_the_nearest() -> None:
    result = CliRunner().invoke(app, ["stats"])
    assert result.exit_code == 2
    assert "Did you mean 'status'" in result.stderr


def test_shells_complete_commands_and_names_of_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "studies" / "deltas").mkdir(parents=True)
    (tmp_path / "outputs" / "studies" / "deltas" / "study.yaml").touch()
    for words, completed in (("cola sta", ["status"]), ("cola plan de", ["demo", "deltas"])):
        given = {"_COLA_COMPLETE": "complete_bash", "COMP_WORDS": words,
                 "COMP_CWORD": str(words.count(" "))}  # fmt: skip
        shown = CliRunner().invoke(app, [], prog_name="cola", env=given)
        assert shown.stdout.split() == completed
