"""Every example of the pages is one that the product takes; the cheap ones are run."""

from __future__ import annotations

import random
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from cola.errors import SpecError
from cola.spec.yaml_text import parse_yaml
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.remote.clusters import ClustersFile
from sweeps.cli import app
from sweeps.space.spec import SweepSpec
from tests.page_examples import PAGES, blocks, commands, mentioned
from tests.paths import ROOT

README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial.md"
NOT_OURS = ("lm-eval",)  # it hands its options on
# Parts of a study are examples too; they stand in the place of these keys.
WHOLE = {
    "name": "whole",
    "families": ["ar"],
    "ladder": [{"budget": 1e12, "core_parameters": 300_000}],
    "training": {"batch_sequences": 64},  # a sequence for each worker of the largest example
}


def parsed(command: Any, words: list[str], parent: Any = None) -> None:
    """Have the command line parse these words as it would; raises its own error."""
    if not hasattr(command, "resolve_command"):
        command.make_context(command.name, list(words), parent=parent)
        return
    context = command.make_context(command.name, [], parent=parent, resilient_parsing=True)
    name, inner, rest = command.resolve_command(context, list(words))
    if name not in NOT_OURS:
        parsed(inner, rest, context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_command_line_takes_every_command_of_a_page(page: Path) -> None:
    group, refused = get_command(app), []
    for words in commands(page):
        try:
            parsed(group, words)
        except Exception as error:
            refused.append(f"cola {shlex.join(words)}: {error}")
    assert refused == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_that_sentences_name_exist(page: Path) -> None:
    group = get_command(app)
    for text in mentioned(page):
        _, name, *rest = text.split()
        if name.isupper() or name.startswith("-"):  # `cola COMMAND --help`, `cola --help`
            continue
        assert name in group.commands, text
        options = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert options <= known_options(group.commands[name]) | {"--help"}, text


def known_options(command: Any) -> set[str]:
    """Long options of a command and of those in it."""
    inner = getattr(command, "commands", {}).values()
    own = {option for parameter in command.params for option in parameter.opts}
    return own.union(*(known_options(each) for each in inner))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_yaml_of_a_page_is_valid(page: Path) -> None:
    for values in map(parse_yaml, blocks(page, "yaml")):
        assert not values or specification(values)  # some are comments alone


def specification(values: dict[str, Any]) -> object:
    """What the values describe; what is invalid raises."""
    if "clusters" in values:
        return ClustersFile.parse(values)
    return SweepSpec.parse(values) if "space" in values else StudySpec.parse(WHOLE | values)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_and_files_of_shell_examples_exist(page: Path) -> None:
    shell = "\n".join(blocks(page, "bash"))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", shell, re.MULTILINE)) <= targets
    assert [
        path for path in re.findall(r"\btests/[\w/.]+", shell) if not (ROOT / path).exists()
    ] == []


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the files that the README's examples name."""
    folder = tmp_path_factory.mktemp("readme")
    study, sweep, _ = blocks(README, "yaml")
    (folder / "study.yaml").write_text(study)
    (folder / "rates.yaml").write_text(sweep)
    (folder / "books").mkdir()
    generator = random.Random(0)
    words = ["river", "lamp", "garden", "letter", "engine", "window", "captain", "mirror"]
    text = " ".join(generator.choice(words) for _ in range(400_000))
    for number in range(4):
        (folder / "books" / f"{number}.txt").write_text(text[number::4])
    shutil.copytree(folder / "books", folder / "texts")
    rows = ["params,tokens,loss,flops,group"]
    for size in (1e6, 2e6, 4e6, 8e6, 16e6):
        for per_parameter in (10, 20, 40):
            tokens = per_parameter * size
            loss = 1.7 + 400 / size**0.34 + 410 / tokens**0.28
            rows.append(f"{size:g},{tokens:g},{loss:.6f},{6 * size * tokens:g},one")
    (folder / "runs.csv").write_text("\n".join(rows))
    return folder


# A pattern of commands that take tenths of a second, start nothing and need no trained run.
CHEAP = re.compile(
    r"init |studies$|plan (?!.*--calibrate)|ls$|schema|sweep list$|sweep .*--plan$|recipe |"
    r"status study\.yaml$|fit runs\.csv --n params --d tokens --loss loss$"
)


def cheap_commands() -> list[str]:
    """Of the README, and of the example of a sweep in it."""
    found = [shlex.join(words) for words in commands(README)]
    return [*filter(CHEAP.match, found), "sweep rates.yaml --plan"]


@pytest.mark.parametrize("command", cheap_commands())
def test_cheap_examples_run_as_they_stand(
    command: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    result = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.strip()


def test_the_tutorials_first_commands_do_what_it_says(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to its training: the mistake on purpose has the error that the page shows."""
    monkeypatch.chdir(here)
    monkeypatch.setenv("COLUMNS", "100")
    typed = list(commands(TUTORIAL))
    verbs = [words[0] for words in typed]
    assert verbs[:5] == ["init", "plan", "plan", "run", "status"]
    for words in typed[:2]:
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert Path("texts.yaml").is_file()
    with pytest.raises(SpecError) as refused:
        CliRunner().invoke(app, typed[2], catch_exceptions=False)
    assert f"error: {refused.value}" in TUTORIAL.read_text()


def test_the_readmes_first_study_can_give_a_curve(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    study = StudySpec.parse(yaml.safe_load((here / "study.yaml").read_text()))
    runs = plan_study(study, "0" * 64)
    assert {len({r.spec.budget for r in runs if r.variant == v}) for v in study.families} == {3}


def test_cheap_examples_are_not_none() -> None:
    assert len(cheap_commands()) >= 10
