"""Whether a run's exported model can be used, by its files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cola.checksums import CHECKSUMS_FILE, write_checksums
from orchestration.state.run_model import damage_of_model, model_problem, set_aside_damaged

WEIGHTS = "vae/model.safetensors"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "vae").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / WEIGHTS).write_bytes(bytes(100))
    write_checksums(tmp_path / "model")
    return tmp_path


def without_folder(run_folder: Path) -> None:
    (run_folder / "model").rename(run_folder / "elsewhere")


def without_files(run_folder: Path) -> None:
    without_folder(run_folder)
    (run_folder / "model").mkdir()


def a_file_instead(run_folder: Path) -> None:
    without_folder(run_folder)
    (run_folder / "model").write_text("")


@pytest.mark.parametrize("remove", [without_folder, without_files, a_file_instead])
def test_a_missing_model(run_folder: Path, remove: Callable[[Path], None]) -> None:
    assert damage_of_model(run_folder) is None
    remove(run_folder)
    assert damage_of_model(run_folder) == "is missing"
    assert damage_of_model(run_folder, contents=False) == "is missing"


def test_a_damaged_model_is_one_line_with_the_remedy_and_is_set_aside(run_folder: Path) -> None:
    set_aside_damaged(run_folder)
    assert damage_of_model(run_folder) is None
    (run_folder / "model" / WEIGHTS).write_bytes(bytes(50))
    damage = damage_of_model(run_folder)
    assert damage == f"is damaged ({WEIGHTS} has 50 bytes, 100 were written)"
    problem = model_problem(run_folder, damage)
    assert problem.startswith(f"{run_folder}/model: the exported model of this finished run is dam")
    assert "`cola run`" in problem
    assert "\n" not in problem
    set_aside_damaged(run_folder)
    assert damage_of_model(run_folder) == "is missing"
    assert (run_folder / "model.damaged" / WEIGHTS).stat().st_size == 50


def test_a_changed_byte_is_seen_in_the_contents_alone(run_folder: Path) -> None:
    (run_folder / "model" / WEIGHTS).write_bytes(bytes(99) + b"\1")
    assert damage_of_model(run_folder, contents=False) is None
    assert "SHA-256" in str(damage_of_model(run_folder))


def test_a_model_of_a_release_without_checksums_counts_as_whole(run_folder: Path) -> None:
    (run_folder / "model" / CHECKSUMS_FILE).unlink()
    assert damage_of_model(run_folder) is None
    set_aside_damaged(run_folder)
    assert (run_folder / "model" / WEIGHTS).exists()
