"""A finished run's model is used only whole, from wherever its output folder lies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cola.data import PreparedData, prepare
from cola.errors import SpecError, StorageError
from cola.families.registry import family_of
from cola.spec import DataSpec, GenerationSpec
from cola.study import RunSpec, StudySpec
from orchestration.inference.export import export_run
from orchestration.inference.generate import fill_text, stream_text
from orchestration.inference.target import find_target, open_run_model
from orchestration.planning.decisions import decide
from orchestration.planning.plan import plan_study
from orchestration.state.ledger import Ledger
from orchestration.state.paths import OutputFolder, RunFolder, study_folder
from orchestration.state.run_model import set_aside_damaged
from orchestration.training.train_loop import initial_model
from orchestration.worker.finish import save_model
from tests.conftest import data_of

PROMPT = "The river finds the lamp. " * 20


def finish_run(
    family: str, values: dict[str, Any], data: PreparedData, root: Path
) -> tuple[Path, RunSpec]:
    """A run as the end of training leaves it, untrained."""
    plan = plan_study(StudySpec.parse(values | {"output": str(root)}))
    run = next(run for run in plan if run.spec.family == family)
    ledger = Ledger(root)
    ledger.acquire(run.key)
    folder = RunFolder(ledger.run_folder(run.key))
    folder.spec.write_text(run.spec.model_dump_json())
    folder.write_data(data.folder)
    model = initial_model(family_of(family), run.spec)
    save_model(family_of(family), model, data.tokenizer, folder=folder.model)
    ledger.close(run.key, "finished")
    return folder.path, run.spec


@pytest.fixture
def run(tiny_study: dict[str, Any], corpus_file: Path, tmp_path: Path) -> tuple[Path, RunSpec]:
    """A finished AR run of an output folder with its own cache."""
    root = tmp_path / "outputs"
    data = prepare(DataSpec.parse(data_of(corpus_file)), OutputFolder(root).cache)
    return finish_run("ar", tiny_study, data, root)


def uses(folder: Path, spec: RunSpec, new: Path) -> list[Callable[[], object]]:
    """Everything that opens the model."""
    root = folder.parent.parent
    return [
        lambda: open_run_model(folder, spec.family, 32),
        lambda: find_target(folder.name, root, None).open(),
        lambda: export_run(folder, spec, new),
    ]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a flipped bit": ("model.safetensors", flip, "was changed after it was written"),
    "cut weights": ("model.safetensors", cut, "1,000 bytes"),
    "no weights": ("model.safetensors", Path.unlink, "is missing"),
    "no configuration": ("config.json", Path.unlink, "is missing"),
    "a cut tokenizer": ("tokenizer.json", cut, "1,000 bytes"),
    "no sums": ("checksums.json", lambda path: path.write_text("{"), "checksums.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_everywhere_and_exported_again(
    damage: str, run: tuple[Path, RunSpec], tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    folder, spec = run
    study = StudySpec.parse(tiny_study | {"families": ["ar"]})
    ledger, plan = Ledger(folder.parent.parent), plan_study(study)
    (decision,) = decide(plan, ledger, study_folder(study))
    assert decision.action == "reuse"
    name, act, expected = DAMAGES[damage]
    act(folder / "model" / name)
    for use in uses(folder, spec, tmp_path / "new"):
        with pytest.raises(StorageError) as refusal:
            use()
        assert expected in str(refusal.value)
        assert "trains it on from its newest checkpoint" in str(refusal.value)
        assert len(str(refusal.value).splitlines()) == 1
    assert not (tmp_path / "new").exists()
    (decision,) = decide(plan, ledger, study_folder(study))
    assert (decision.action, expected in decision.why) == ("reuse", True)
    assert f"remove {folder / 'ledger.json'} to train it again from its start" in decision.why
    assert ledger.acquire(spec.run_key).state == "running", "a damaged model is no finished run's"
    set_aside_damaged(folder)
    assert not (folder / "model").exists()
    assert (folder / "model.damaged").is_dir()


def test_a_missing_model_is_not_an_unfinished_run(
    run: tuple[Path, RunSpec], tmp_path: Path
) -> None:
    folder, spec = run
    shutil.rmtree(folder / "model")
    for use in uses(folder, spec, tmp_path / "new"):
        with pytest.raises(StorageError, match=r"of this finished run is missing; `cola run`"):
            use()
    (folder / "ledger.json").unlink()
    with pytest.raises(SpecError, match="is not finished"):
        export_run(folder, spec, tmp_path / "new")


def test_a_model_without_checksums_that_cannot_be_opened_is_one_line(
    run: tuple[Path, RunSpec],
) -> None:
    folder, spec = run
    (folder / "model" / "checksums.json").unlink()
    assert open_run_model(folder, spec.family, 32).context == 32
    cut(folder / "model" / "model.safetensors")
    with pytest.raises(
        StorageError, match=r"cannot be read .*, or remove .*/model; `cola"
    ) as refusal:
        open_run_model(folder, spec.family, 32)
    assert len(str(refusal.value).splitlines()) == 1


def test_an_exported_folder_is_checked_too(run: tuple[Path, RunSpec], tmp_path: Path) -> None:
    folder, spec = run
    exported = tmp_path / "exported"
    export_run(folder, spec, exported)
    (exported / "README.md").write_text("# Mine")  # for people to edit
    find_target(str(exported), tmp_path, None).open()
    flip(exported / "model.safetensors")
    with pytest.raises(StorageError, match=r"SHA-256 differs\); export the model again, or remove"):
        find_target(str(exported), tmp_path, None).open()


@pytest.mark.parametrize("original", ["stays", "is gone"])
def test_a_moved_output_reads_its_own_files(
    original: str, run: tuple[Path, RunSpec], tmp_path: Path
) -> None:
    folder, _ = run
    assert str(tmp_path) not in (folder / "data.json").read_text()
    moved = tmp_path / "elsewhere" / "moved %20"
    shutil.copytree(folder.parent.parent, moved)
    if original == "is gone":
        shutil.rmtree(folder.parent.parent)
    target = find_target(folder.name, moved, None)
    data = target.data()
    assert data is not None
    assert data.folder.is_relative_to(moved)
    assert len(data.validation) > 0


def test_an_absolute_reference_of_an_older_release_is_followed_into_the_copy(
    run: tuple[Path, RunSpec], tmp_path: Path
) -> None:
    folder, _ = run
    place = RunFolder(folder).data_folder()
    RunFolder(folder).data.write_text(f'{{"folder": "{place}"}}')
    assert RunFolder(folder).data_folder() == place
    copied = tmp_path / "copy"
    shutil.copytree(folder.parent.parent, copied)
    assert RunFolder(copied / "runs" / folder.name).data_folder().is_relative_to(copied)


def test_a_corpus_outside_the_output_folder_is_named_absolutely(
    tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    folder, _ = finish_run("ar", tiny_study, data, tmp_path / "outputs")
    assert RunFolder(folder).data_folder() == data.folder


def test_without_its_cache_a_run_lacks_only_its_text(
    run: tuple[Path, RunSpec], tmp_path: Path
) -> None:
    folder, spec = run
    root = folder.parent.parent
    shutil.rmtree(OutputFolder(root).cache)
    target = find_target(folder.name, root, None)
    assert target.open().tokenizer.encode("The lamp")
    export_run(folder, spec, tmp_path / "exported")
    with pytest.raises(StorageError, match=r"its prepared corpus .* is gone; `cola run`"):
        target.data()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"folder": 3}', "null", '"a"', None])
def test_a_damaged_reference_is_one_line(content: str | None, run: tuple[Path, RunSpec]) -> None:
    folder, _ = run
    path = RunFolder(folder).data
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(StorageError, match=r"data\.json: .*write \{\"folder\": ") as refusal:
        RunFolder(folder).data_folder()
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("family", ["ar", "llada", "cola"])
def test_a_long_prompt_continues_as_its_end_does(
    family: str, tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    folder, spec = finish_run(family, tiny_study, data, tmp_path / "outputs")
    evaluated = open_run_model(folder, family, spec.data.sequence_length)
    settings = GenerationSpec(max_new_tokens=8, steps=2)
    given = data.tokenizer.encode(PROMPT)
    notes: list[str] = []

    def continued(text: str) -> str:
        return "".join(stream_text(evaluated, text, settings, seed=1, notify=notes.append))

    found = continued(PROMPT)
    assert notes == [
        f"the given text has {len(given)} tokens, of which {len(given) - 24} were cut: the context "
        "of 32 tokens less 8 new ones has room for 24"
    ]
    end = data.tokenizer.decode(given[-24:])
    assert data.tokenizer.encode(end) == given[-24:]
    assert continued(end) == found
    assert len(notes) == 1
    with pytest.raises(SpecError, match="leaves no room for a prompt"):
        list(stream_text(evaluated, "a", GenerationSpec(max_new_tokens=32), seed=1))


def test_texts_round_a_gap_are_cut_to_what_is_nearest(
    tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    folder, spec = finish_run("llada", tiny_study, data, tmp_path / "outputs")
    evaluated = open_run_model(folder, "llada", spec.data.sequence_length)
    settings = GenerationSpec(max_new_tokens=8, steps=2)
    given = data.tokenizer.encode(PROMPT)
    notes: list[str] = []
    found = fill_text(evaluated, PROMPT, PROMPT, settings=settings, seed=1, notify=notes.append)
    assert f"{2 * len(given)} tokens, of which {2 * len(given) - 24} were cut" in notes[0]
    decode = data.tokenizer.decode
    texts = decode(given[-12:]), decode(given[:12])
    assert fill_text(evaluated, *texts, settings=settings, seed=1, notify=notes.append) == found
    assert len(notes) == 1


def test_a_crash_while_a_model_is_written_leaves_the_old_one_or_none(
    run: tuple[Path, RunSpec], data: PreparedData, tmp_path: Path
) -> None:
    class Failing:
        """Stands for a disk that is full after the first file."""

        def save(self, model: object, folder: Path) -> None:
            (folder / "config.json").write_text("{}")
            raise OSError(28, "No space left on device")

    folder, spec = run
    with pytest.raises(OSError, match="No space left"):
        save_model(Failing(), torch.nn.Module(), data.tokenizer, folder=tmp_path / "model")  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*model*"))
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(OSError, match="No space left"):
        save_model(Failing(), torch.nn.Module(), data.tokenizer, folder=folder / "model")  # type: ignore[arg-type]
    assert sorted(path.name for path in folder.iterdir()) == before
    assert open_run_model(folder, spec.family, 32).context == 32
