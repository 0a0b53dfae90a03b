"""Other projects' runs: every format gives the same runs, and what is wrong is said."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from analysis.imports.record import frames_of, read_import
from cola.errors import SpecError, StorageError
from tests.unit.analysis.imports.sources import (
    MAP,
    imported,
    loss_at,
    ran,
    wandb_rows,
    written,
)
from tests.unit.analysis.store import Store


def event_folder(folder: Path) -> str:
    for row in wandb_rows():
        with SummaryWriter(str(folder / row["Name"])) as writer:
            writer.add_scalar("val/loss", row["val/loss"] + 1, 10)
            writer.add_scalar("val/loss", row["val/loss"], 100)
            writer.add_scalar("tokens", row["train/tokens"], 100)
    return str(folder)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_tables_of_every_format_give_the_same_runs(tmp_path: Path, ending: str) -> None:
    found = imported(written(tmp_path / f"runs.{ending}", wandb_rows()), tmp_path)
    assert [run["name"] for run in found["runs"]] == [row["Name"] for row in wandb_rows()]
    assert {run["family"] for run in found["runs"]} == {"fast", "slow"}
    for run in found["runs"]:
        assert run["c"] == pytest.approx(6 * run["n"] * run["d"])
        assert run["loss"] == pytest.approx(loss_at(run["c"], run["family"]))
    assert any("6 N D" in text for text in found["assumed"])
    assert any("nats a token" in text for text in found["assumed"])


def test_nested_json_is_named_by_its_path(tmp_path: Path) -> None:
    rows = [{"run": "a", "config": {"n": 1e8}, "d": 2e9, "summary": {"loss": 3.0, "x": None}}]
    found = imported(
        written(tmp_path / "runs.jsonl", rows), tmp_path, map_="n=config.n,d=d,loss=summary.loss"
    )
    assert found["runs"][0]["loss"] == 3.0
    assert found["runs"][0]["name"] == "a"


def test_event_files_give_the_last_values_of_every_run(tmp_path: Path) -> None:
    found = imported(
        event_folder(tmp_path / "tb"), tmp_path, "--name-pattern",
        r"^(?P<family>[a-z]+)-(?P<budget>.+)", map_="d=tokens,loss=val/loss",
    )  # fmt: skip
    by_name = {run["name"]: run for run in found["runs"]}
    for row in wandb_rows():
        run = by_name[row["Name"]]
        assert run["loss"] == pytest.approx(row["val/loss"], rel=1e-6)  # float32
        assert run["budget"] == run["c"] == float(row["Name"].partition("-")[2])
    assert any("spent its whole budget" in text for text in found["assumed"])


def test_damaged_event_files(tmp_path: Path) -> None:
    folder = Path(event_folder(tmp_path / "tb"))
    file = sorted(folder.rglob("*tfevents*"))[0]
    data = file.read_bytes()
    file.write_bytes(data[:-3])  # as of a run that was killed while it wrote
    pattern = ["--name-pattern", r"(?P<budget>[0-9].+)", "--drop-missing"]
    found = imported(str(folder), tmp_path, *pattern, map_="loss=val/loss")
    assert any("cut off" in note for note in found["notes"])
    file.write_bytes(data[:40] + b"\0\0" + data[42:])
    with pytest.raises(SpecError, match=r"tfevents.*byte \d+: a record.*copy it again"):
        imported(str(folder), tmp_path, "--replace", *pattern, map_="loss=val/loss")
    with pytest.raises(SpecError, match="holds no event file"):
        imported(str(tmp_path / "studies"), tmp_path)


def test_scalars_that_newer_writers_store_as_tensors_are_read(tmp_path: Path) -> None:
    from tensorboardX.record_writer import RecordWriter

    event = Event(step=5)
    value = event.summary.value.add(tag="loss")
    value.tensor.dtype = 1
    value.tensor.tensor_content = struct.pack("<f", 2.5)
    file = tmp_path / "events.out.tfevents.1"
    writer = RecordWriter(str(file))
    writer.write(event.SerializeToString())
    writer.close()
    found = imported(
        str(file), tmp_path, "--name-pattern", r"(?P<budget>\d+)", map_="loss=loss,name=step"
    )
    assert found["runs"][0]["loss"] == 2.5


def test_unfinished_missing_and_repeated_runs_are_left_out_and_listed(tmp_path: Path) -> None:
    rows = wandb_rows()
    rows.append(rows[0] | {"Name": "late", "State": "crashed"})
    rows.append(rows[0] | {"Name": "spiked", "val/loss": math.nan})
    rows.append(dict(rows[1]))
    path = written(tmp_path / "a.csv", rows)
    with pytest.raises(SpecError, match=r"line 13: column 'val/loss' .for loss. holds no number.*"):
        imported(path, tmp_path)
    found = imported(path, tmp_path, "--drop-missing", "--where", "config.arch=fast")
    assert len(found["runs"]) == 5
    assert found["left_out"]["State is crashed, not finished"] == ["line 12"]
    assert found["left_out"]["column 'val/loss' (for loss) holds no number"] == ["line 13"]
    assert found["left_out"]["equal to another run in all that is read"] == ["line 14"]
    assert len(found["left_out"]["not config.arch=fast"]) == 5


def test_units_of_the_loss(tmp_path: Path) -> None:
    row = wandb_rows()[0]
    path = written(tmp_path / "a.csv", [row | {"val/loss": 4.0}])
    (bits,) = imported(path, tmp_path, "--loss-unit", "bits")["runs"]
    assert bits["loss"] == pytest.approx(4 * math.log(2))
    (perplexity,) = imported(path, tmp_path, "--replace", "--loss-unit", "perplexity")["runs"]
    assert perplexity["loss"] == pytest.approx(math.log(4))


def test_runs_of_any_mlflow_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for rung in range(2):
        run = store.run("theirs", "ar", rung)
        store.client.set_terminated(run, "FINISHED")
    store.run("theirs", "ar", 2)  # still running
    columns = "n=core_parameters,c=train_flops_executed,loss=val/nll_nats_per_token,family=family"
    found = imported(store.uri, tmp_path, map_=columns)
    assert [run["name"] for run in found["runs"]] == ["ar-2e+12-seed66", "ar-1e+12-seed66"]
    assert found["left_out"] == {"its status is RUNNING, not FINISHED": ["run ar-4e+12-seed66"]}
    with pytest.raises(SpecError, match=r"has no such experiment; it has .*theirs"):
        imported(store.uri, tmp_path, "--experiment", "other", map_=columns)


@pytest.mark.parametrize(
    ("change", "arguments", "problem"),
    [
        ({}, ["--map", "loss=val/nll"], "no run has a column 'val/nll' .*mean 'val/loss'"),
        ({}, ["--map", "q=x"], "--map 'q=x': write it as"),
        ({}, ["--map", "loss=a,loss=b"], "given twice"),
        ({}, ["--map", "n=config.model.n_params"], "which column has the loss"),
        ({}, ["--map", "loss=val/loss"], "the compute of a run is needed"),
        ({"val/loss": -1}, ["--map", MAP], r"line 2, column 'val/loss' .*'-1.0' is not positive"),
        ({"train/tokens": "2B"}, ["--map", MAP], "line 2, column 'train/tokens'.*write 2e9"),
        ({}, ["--map", MAP, "--where", "x"], "--where 'x': write it as"),
        ({}, ["--map", MAP, "--where", "nothing=1"], "no run has a column 'nothing'"),
        ({}, ["--map", MAP, "--where", "config.arch=none"], "no run is left"),
        ({}, ["--map", MAP, "--name-pattern", "("], "no regular expression"),
        ({}, ["--map", MAP, "--name-pattern", "(?P<what>x)"], "needs groups named after"),
        ({}, ["--map", MAP, "--name-pattern", "(?P<n>x)"], "n has a column by --map already"),
        ({}, ["--map", MAP, "--family", "gpt"], "--family: the runs have a column"),
        ({}, ["--map", MAP, "--experiment", "e"], "names one of MLflow"),
        ({"val/loss": 1.0}, ["--map", MAP, "--loss-unit", "perplexity"], "perplexity of 1 or less"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, change: dict[str, Any], arguments: list[str], problem: str
) -> None:
    path = written(tmp_path / "a.csv", [wandb_rows()[0] | change, wandb_rows()[1]])
    with pytest.raises(SpecError, match=problem):
        imported(path, tmp_path, *arguments, map_=None)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("run-1.wandb", ":W&A...", "no transaction log of W&B"),
        ("chart.csv", "Step,a - loss,a - loss__MIN,a - loss__MAX\n1,2,2,2\n", "is a chart"),
        ("runs.jsonl", '{"a": 1}\n{"a"', "line 2 is no JSON"),
        ("runs.jsonl", "[1]\n", "entry 1 is no JSON object"),
        ("runs.json", "", "is empty"),
        ("runs.parquet", "PAR1", "cannot be read as Parquet"),
        ("runs.csv", "a,a\n1,2\n", "two columns 'a'"),
        ("mlflow.db", "SQLite format 3", "if it is MLflow's, give sqlite:///"),
        ("gone.csv", None, "there is no such file"),
    ],
)
def test_files_that_are_no_table_of_runs_are_refused(
    tmp_path: Path, name: str, content: str | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SpecError, match=problem):
        imported(str(tmp_path / name), tmp_path, map_="loss=a,c=a")


def test_an_import_never_replaces_a_study_unasked(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", wandb_rows())
    imported(path, tmp_path)
    with pytest.raises(SpecError, match="is there already; give --replace"):
        imported(path, tmp_path)
    folder = tmp_path / "studies/ext"
    (folder / "imported.json").write_text('{"schema": 2}')
    with pytest.raises(StorageError, match="not an import that this version reads"):
        read_import(folder)
    (folder / "study.yaml").write_text("name: ext\n")
    with pytest.raises(SpecError, match="is a study that was run here"):
        imported(path, tmp_path, "--replace")
    with pytest.raises(SpecError, match="--study 'A b': give a name"):
        ran("import", path, "--study", "A b", "--map", MAP)


def test_a_forecast_of_an_import_outlives_further_runs_and_other_lines(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "Name"} for row in wandb_rows(("fast",))]
    imported(written(tmp_path / "a.csv", rows[:4]), tmp_path)
    place = ["ext", "--output", str(tmp_path)]
    ran("forecast", "register", *place, "--target", "c=2.56e20", "--law", "compute")
    further = rows[1] | {"train/tokens": 1.03 * rows[1]["train/tokens"]}  # moves a mean compute
    imported(written(tmp_path / "a.csv", [further, *rows]), tmp_path, "--replace")

    def scored() -> Any:
        (score,) = json.loads(ran("forecast", "score", *place, "--json"))["scores"]
        return score

    assert scored()["counts"], scored()["problem"]
    assert "1 further run of smaller budgets finished since" in scored()["notes"]
    rows[1]["val/loss"] += 0.01
    imported(written(tmp_path / "a.csv", [further, *rows]), tmp_path, "--replace")
    assert "other numbers: line 3" in scored()["problem"]


def test_an_imported_study_is_reported_and_forecast_like_our_own(tmp_path: Path) -> None:
    rows = wandb_rows(("fast",))
    imported(written(tmp_path / "a.csv", rows[:4]), tmp_path)
    place = ["ext", "--output", str(tmp_path)]
    frames = frames_of(read_import(tmp_path / "studies/ext"))  # type: ignore[arg-type]
    assert list(frames.runs["variant"].unique()) == ["fast"]
    ran("forecast", "register", *place, "--target", "c=2.56e20", "--law", "compute")
    imported(written(tmp_path / "a.csv", rows), tmp_path, "--replace")
    (score,) = json.loads(ran("forecast", "score", *place, "--json"))["scores"]
    assert score["counts"]
    assert score["measured"] == pytest.approx(loss_at(2.56e20), rel=1e-6)
    assert score["forecast"] == pytest.approx(loss_at(2.56e20), rel=1e-3)
    printed = ran("report", *place)
    assert "fast      (exact): L = 1.70" in printed
    page = (tmp_path / "studies/ext/report/report.md").read_text()
    assert "trained by another project" in page
    assert "nan" not in page
