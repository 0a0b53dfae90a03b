"""Offline runs of W&B: what a transaction log holds, in whole and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.errors import SpecError
from tests.unit.analysis.imports.sources import MAP, imported, loss_at, wandb_rows
from tests.unit.analysis.imports.wandb_log import (
    BLOCK,
    ended,
    history,
    log_of,
    message,
    run_record,
    summary,
    write_log,
)


def records_of(row: dict[str, Any], *, filler: int = 0, code: int = 0) -> list[bytes]:
    """A run whose loss falls to the row's; `filler`: bytes of console output in one record."""
    config = {"arch": row["config.arch"], "model": {"n_params": row["config.model.n_params"]}}
    return [
        run_record(row["Name"], config),
        history(1, {"val/loss": row["val/loss"] + 1, "_step": 1}),
        message(f13=message(f3="x" * filler)),
        history(2, {"val/loss": row["val/loss"], "train/tokens": row["train/tokens"]}, nested=True),
        ended(code),
    ]


@pytest.mark.parametrize("version", [0, 1])
def test_offline_folders_give_the_runs_of_the_export(tmp_path: Path, version: int) -> None:
    for number, row in enumerate(wandb_rows()):
        # Records of more than two blocks, and ones that end within seven bytes of a block's end.
        filler = 3 * BLOCK if number == 0 else BLOCK - 400 + number
        write_log(tmp_path / "wandb", row["Name"], records_of(row, filler=filler), version)
    found = imported(str(tmp_path / "wandb"), tmp_path, map_=MAP)
    assert {run["name"] for run in found["runs"]} == {row["Name"] for row in wandb_rows()}
    for run in found["runs"]:
        assert run["loss"] == pytest.approx(loss_at(run["c"], run["family"]))
    assert found["kind"] == "W&B's offline runs"
    assert any("its last value counts" in note for note in found["notes"])


@pytest.mark.parametrize("size", range(BLOCK - 60, BLOCK - 30))
def test_records_around_a_block_are_whole(tmp_path: Path, size: int) -> None:
    row = wandb_rows()[0]
    path = tmp_path / "run-a.wandb"
    path.write_bytes(log_of([message(f13="x" * size), *records_of(row)]))
    (run,) = imported(str(path), tmp_path, map_=MAP)["runs"]
    assert run["loss"] == row["val/loss"]


def test_the_summary_replaces_the_last_logged_value(tmp_path: Path) -> None:
    row = wandb_rows()[0]
    *records, end = records_of(row)
    best = summary({"val/loss": 2.0, "_wandb": {"runtime": 3}})
    removed = message(f5=message(f2=[message(f1="arch")]))
    write_log(tmp_path, "a", [*records, best, removed, end])
    found = imported(str(tmp_path), tmp_path, map_=MAP.replace("config.arch", "name"))
    (run,) = found["runs"]
    assert (run["loss"], run["family"]) == (2.0, row["Name"])


def test_runs_without_a_good_end_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    rows = wandb_rows()
    write_log(tmp_path, "good", records_of(rows[0]))
    write_log(tmp_path, "failed", records_of(rows[1], code=1))
    torn = write_log(tmp_path, "torn", records_of(rows[2])[:-1])
    torn.write_bytes(torn.read_bytes() + b"\x01\x02\x03")
    found = imported(str(tmp_path), tmp_path, map_=MAP)
    assert [run["name"] for run in found["runs"]] == [rows[0]["Name"]]
    reasons = list(found["left_out"])
    assert "its state is failed, not finished" in reasons
    assert any("no record of its end" in reason for reason in reasons)
    assert any("torn.wandb: its last record is cut off" in note for note in found["notes"])
    more = imported(str(tmp_path), tmp_path, "--replace", "--where", "state!=failed", map_=MAP)
    assert [run["loss"] for run in more["runs"]] == [rows[0]["val/loss"], rows[2]["val/loss"]]


def test_damaged_logs_are_refused_with_their_place(tmp_path: Path) -> None:
    row = wandb_rows()[0]
    data = log_of(records_of(row))
    path = tmp_path / "run-a.wandb"

    def refused(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(SpecError) as caught:
            imported(str(path), tmp_path, map_=MAP)
        return str(caught.value)

    assert f"{path}: byte 7: a record's checksum is wrong" in refused(data[:30] + b"?" + data[31:])
    assert "version 2 of W&B's format" in refused(data[:6] + b"\x02" + data[7:])
    assert "does not begin with :W&B" in refused(b"")
    assert "is none of W&B's" in refused(log_of([b"\x0f\x01"]))
    assert "no run is left" in refused(data[:7])
    middle = data[:7] + log_of([b"x" * 40000])[7:BLOCK] + log_of([b"y"])[7:]
    assert f"byte {BLOCK}: a part of a record is missing" in refused(middle)
    # Values of a later client, which are not in JSON, are said to be there.
    *records, end = records_of(row)
    path.write_bytes(log_of([*records, message(f2=message(f1=message(f1="a", f3=b"1"))), end]))
    found = imported(str(path), tmp_path, map_=MAP)
    assert any("1 logged values are not in JSON" in note for note in found["notes"])


def test_both_trackers_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_log(tmp_path, "a", records_of(wandb_rows()[0]))
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    with pytest.raises(SpecError, match="may be the same runs"):
        imported(str(tmp_path), tmp_path, map_=MAP)
