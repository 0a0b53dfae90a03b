"""Items from local files and folders, and from data sets in their public layout on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cola.errors import SpecError, StorageError
from cola.evaluation.few_shot.definitions import DEFINITIONS
from cola.evaluation.few_shot.selection import Selection
from cola.evaluation.few_shot.sources import Hub, load_items
from cola.evaluation.items import Item, read_items, write_items
from sweeps.cli import app
from tests.unit.evaluation.few_shot.test_public_records import RECORDS

STRATA = {"mmlu": "m", "race": "high", "squad": "Tea", "squad_f1": "Tea", "hellaswag": "wikihow"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def dataset_folder(
    folder: Path, config: str, split: str, records: list[dict[str, Any]], parquet: bool
) -> Path:
    """A data set as it lies on the hub: files, and a README.md that names the configuration."""
    import datasets

    rows = datasets.Dataset.from_list(records)
    folder.mkdir()
    if parquet:
        rows.to_parquet(folder / f"{split}-0000.parquet")
    else:
        rows.to_json(folder / f"{split}-0000.jsonl")
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: {split}\n"
        f"    path: {split}-*\n---\n"
    )
    return folder


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_public_data_set_gives_the_items_of_its_records(name: str, tmp_path: Path) -> None:
    task, record = DEFINITIONS[name], RECORDS[name][0]
    records = [record | {"id": f"r{n}"} for n in range(3)] if "id" in record else [record] * 3
    config, split = task.dataset.config or "default", task.dataset.split
    folder = dataset_folder(tmp_path / "set", config, split, records, parquet=name != "mmlu")
    items = load_items(name, Hub(str(folder), config), selection=Selection(2, "first"))
    first, stratum = task.first_number, STRATA.get(name)
    expected = [task.item(records[n], first + n) for n in range(2)]
    assert items == [item.model_copy(update={"stratum": stratum}) for item in expected]
    assert len(load_items(name, Hub(str(folder), config))) == 3


def test_items_are_written_and_read_back(tmp_path: Path) -> None:
    """`cola items` of a data set, then the file and its folder as a source."""
    record = RECORDS["squad_f1"][0]
    folder = dataset_folder(tmp_path / "set", "plain", "dev", [record], parquet=True)
    written = tmp_path / "new" / "squad_f1.jsonl"
    arguments = ["squad_f1", "--to", str(written), "--dataset", str(folder)]
    command = ["items", *arguments, "--config", "plain", "--split", "dev"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.stdout.endswith("1 items of squad_f1\n")
    expected = [DEFINITIONS["squad_f1"].item(record, 0).model_copy(update={"stratum": "Tea"})]
    assert load_items("squad_f1", written) == expected
    assert load_items("squad_f1", written.parent) == expected


def test_a_local_file_is_taken_in_its_order_up_to_the_limit(tmp_path: Path) -> None:
    items = [Item(id=n, prompt="p\n“q”", answer="a", choices=["a", "b"]) for n in (8, 0, 16)]
    write_items(tmp_path / "mmlu.jsonl", items)
    assert load_items("mmlu", tmp_path) == items
    first = Selection(2, "first")
    assert load_items("mmlu", tmp_path / "mmlu.jsonl", selection=first) == items[:2]


def test_messages_name_the_callers_option(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^--tasks .*obqa\.jsonl: cannot be read"):
        load_items("obqa", tmp_path, option="--tasks")
    (tmp_path / "squad_f1.jsonl").write_text('{"id": 1, "prompt": "a", "answer": "b"}\n')
    with pytest.raises(SpecError, match=r"^--tasks .*: item 1 needs `answers`, all that count"):
        load_items("squad_f1", tmp_path, option="--tasks")
    with pytest.raises(SpecError, match="--task arc: unknown; valid: hellaswag, lambada, mmlu"):
        load_items("arc", tmp_path)
    with pytest.raises(StorageError, match=r"^--to .*: cannot be written \(Is a directory\)") as to:
        write_items(tmp_path, [])
    assert to.value.exit_code == 3


def test_a_record_in_another_schema_is_named_with_its_fields(tmp_path: Path) -> None:
    records = [{"text": "one two"}, {"text": "three"}]
    folder = dataset_folder(tmp_path / "set", "default", "test", records, parquet=True)
    with pytest.raises(SpecError, match=r"record 1 is not what lambada is made of \(ValueError"):
        load_items("lambada", Hub(str(folder)))
    with pytest.raises(SpecError, match=r"made of \(KeyError: 'choices'\); its fields: text"):
        load_items("obqa", Hub(str(folder)))
    with pytest.raises(SpecError, match=r"\(split train\): cannot be loaded .*Unknown split"):
        load_items("obqa", Hub(str(folder), split="train"))


@pytest.mark.slow
def test_without_a_network_the_message_says_what_to_do() -> None:
    """In a process of its own, since the hub's client reads the variable when it is imported."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    main = "from sweeps.cli import main; main()"
    command = [sys.executable, "-c", main, "items", "mmlu", "--to", "none.jsonl"]
    done = subprocess.run(
        [*command, "--revision", "v1"], env=environment, capture_output=True, text=True
    )
    shown = " ".join(done.stderr.split())
    assert done.returncode == 2
    assert "data set cais/mmlu (config all, split test, revision v1): cannot be loaded" in shown
    assert "give a folder with mmlu.jsonl as `cola score --items` (`cola items mmlu --to" in shown
    assert "Traceback" not in shown


def test_a_written_line_is_an_object_without_empty_fields(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    write_items(path, [Item(id=1, prompt="p", answer="a")])
    assert json.loads(path.read_text()) == {"id": 1, "prompt": "p", "answer": "a"}
    assert read_items(path, needs_choices=False) == [Item(id=1, prompt="p", answer="a")]
