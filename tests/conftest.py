"""Shared by all tests: quiet libraries, one thread, a tiny corpus and a tiny study."""

from __future__ import annotations

import os

# Before anything imports them: no usage reports, no accelerator probing, few threads.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Ray's workers are as important as the test beside them, for which they would starve.
os.environ.setdefault("RAY_worker_niceness", "0")

import gc
import logging
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import yaml

from cola.logs import PACKAGES
from tests.paths import LONG_TESTS, left_out

if TYPE_CHECKING:
    from cola.data import PreparedData

# A shell's background job ignores interrupts, and so would every command that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("cola", deadline=None)
hypothesis.settings.load_profile("cola")

collect_ignore_glob = list(left_out())


def pytest_report_header() -> list[str]:
    """What this machine leaves out."""
    return [f"left out: {pattern} ({reason})" for pattern, reason in left_out().items()]


def pytest_configure() -> None:
    """Look for no garbage while tests are collected: what they import stays to the end."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Nor look for it among what was imported, whenever tests leave some."""
    gc.freeze()
    gc.enable()


def seconds_of(item: pytest.Item) -> float:
    """What the module of one of the longest tests takes; 0 of any other."""
    mark = item.get_closest_marker("slow")
    return float(mark.kwargs.get("seconds", 0)) if mark else 0.0


def mark_long_tests(items: list[pytest.Item]) -> None:
    """`slow` are also those whose processor time was measured as long (`tests.cpu_times`)."""
    long = set(LONG_TESTS.read_text().split("\n"))
    for item in items:
        if item.nodeid.partition("[")[0] in long and item.get_closest_marker("slow") is None:
            item.add_marker("slow")
            item.add_marker("long")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal the longest modules out to all workers but one, to each the longest first.

    xdist gives each worker an equal part of the list, and whoever has none left half of the longest
    rest, from its end. So one worker begins with short tests, and takes those of the others: at the
    end all have short ones. Two that wait for Ray share two cores better than three.
    """
    mark_long_tests(items)
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    modules: dict[Path, list[pytest.Item]] = {}
    for item in filter(seconds_of, items):
        modules.setdefault(item.path, []).append(item)
    piles: list[list[pytest.Item]] = [[] for _ in range(max(1, workers - 1))]
    loads = [0.0] * len(piles)
    for module in sorted(modules.values(), key=lambda each: -seconds_of(each[0])):
        least = loads.index(min(loads))
        loads[least] += seconds_of(module[0])
        piles[least] += module
    rest = [item for item in items if not seconds_of(item)]
    dealt, left = [], len(items)
    for index, pile in enumerate(piles):
        share = left // (workers - index)
        left -= share
        short = max(0, share - len(pile))
        dealt += pile + rest[:short]
        rest = rest[short:]
    items[:] = dealt + rest


@pytest.fixture(autouse=True)
def loggers_as_found() -> Iterator[None]:
    """Undo the set-up of logs by commands that a test runs in this process."""
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(log.level, list(log.handlers), log.propagate) for log in loggers]
    yield
    for log, (level, handlers, propagate) in zip(loggers, before, strict=True):
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough text with some structure for a few hundred short sequences."""
    random.seed(0)
    nouns = ["river", "lamp", "garden", "letter", "engine", "window", "captain", "mirror"]
    verbs = ["finds", "opens", "follows", "paints", "repairs", "remembers"]
    sentences = [
        f"The {random.choice(nouns)} {random.choice(verbs)} the {random.choice(nouns)}."
        for _ in range(6000)
    ]
    text = "\n\n".join(" ".join(sentences[i : i + 12]) for i in range(0, len(sentences), 12))
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def data(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """The tiny study's corpus, prepared; tests only read it."""
    from cola.data import prepare
    from cola.spec import DataSpec

    return prepare(DataSpec.parse(data_of(corpus_file)), tmp_path_factory.mktemp("cache"))


def data_of(corpus_file: Path) -> dict[str, Any]:
    """The data section of the tiny study."""
    return {
        "corpus": {"source": "files", "paths": [str(corpus_file)]},
        "tokenizer": {"kind": "bpe", "vocab_size": 320},
        "sequence_length": 32,
        "validation_fraction": 0.1,
    }


@pytest.fixture
def tiny_study(corpus_file: Path, tmp_path: Path) -> dict[str, Any]:
    """A study of three families that trains in seconds."""
    return tiny_study_of(corpus_file, tmp_path / "outputs")


def tiny_study_of(corpus_file: Path, output: Path) -> dict[str, Any]:
    """The tiny study of this corpus and output folder."""
    return {
        "name": "tiny",
        "families": {
            "ar": {},
            "llada": {},
            "cola": {"latent_dim": 4, "block_size": 8, "log_snr": 3.0},
        },
        "ladder": [{"budget": 2.0e10, "core_parameters": 70_000}],
        "data": data_of(corpus_file),
        "training": {
            "batch_sequences": 8,
            "precision": "float32",
            "optimizer": {"learning_rate": 1.0e-3},
        },
        "evaluation": {
            "validation_sequences": 8,
            "points": 2,
            "samples": 2,
            "prompt_tokens": 8,
            "generation": {"max_new_tokens": 16, "steps": 4},
            "likelihood": {"mask_samples": 4, "ode_steps": 2},
        },
        "max_epochs": 100,  # the corpus is tiny
        "tracking": {"log_every_steps": 5},
        "checkpoint": {"every_seconds": 2.0},
        "output": str(output),
    }


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 20 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def write_study(values: dict[str, Any], folder: Path) -> Path:
    """The study as a YAML file."""
    path = folder / f"{values['name']}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
