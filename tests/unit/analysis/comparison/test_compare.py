"""`cola compare`: known multipliers across studies, and what stands at every number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.comparison.sides import Side, shared_by
from analysis.report.runs import read_study
from cola.errors import SpecError
from cola.records import Tag
from tests.unit.analysis.fit_command import fitted
from tests.unit.analysis.imports.sources import (
    COMPUTE,
    DELAY,
    MAP,
    imported,
    ran,
    wandb_rows,
    written,
)
from tests.unit.analysis.printed import read
from tests.unit.analysis.store import Store


def test_a_study_against_a_table_gives_the_known_multiplier(tmp_path: Path) -> None:
    imported(written(tmp_path / "fast.csv", wandb_rows(("fast",))), tmp_path)
    slow = written(tmp_path / "slow.csv", wandb_rows(("slow",)))
    figure = tmp_path / "both.svg"
    found = read(
        "compare",
        ran("compare", "ext", slow, "--output", str(tmp_path), "--map", MAP, "--plot", str(figure),
            "--json"),
    )  # fmt: skip
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("ext: fast", "slow.csv: slow")
    assert pair["multiplier"] == pytest.approx(1 / DELAY, rel=0.02)
    assert any("same text and tokenizer is not known" in text for text in found["caveats"])
    assert "slow.csv: slow" in figure.read_text()
    text = ran("compare", "ext", slow, "--output", str(tmp_path), "--map", MAP)
    assert "times more compute for" in text
    assert "[whether both losses are of the same text and tokenizer is not known" in text


def test_an_export_is_read_fitted_and_compared_with_a_study_of_ours(tmp_path: Path) -> None:
    """The other project needs a third of our compute for any loss."""
    times, store = 3.0, Store(tmp_path)
    for rung in range(4):
        store.run("ours", "ar", rung)
    folder = tmp_path / "studies/ours"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(f"name: ours\ntracking: {{uri: '{store.uri}'}}\n")
    rows = wandb_rows(("fast",))
    for row, compute in zip(rows, COMPUTE, strict=True):
        scale = (compute / 1e18) ** 0.5  # from 1e12 FLOPs on, as ours
        row["config.model.n_params"] = size = round(1e5 * scale)
        row["train/tokens"] = tokens = 1e12 * compute / 1e18 / (6 * size)
        row["val/loss"] = 4.0 * (times * 6 * size * tokens / 1e12) ** -0.05
    export = written(tmp_path / "wandb_export.csv", rows)
    columns = ["--flops", "flops", "--loss", "val/loss", "--law", "compute-power"]
    written(tmp_path / "t.csv", [row | {"flops": 6 * row["config.model.n_params"]
                                        * row["train/tokens"]} for row in rows])  # fmt: skip
    alone = fitted(str(tmp_path / "t.csv"), *columns, "--bootstrap", "50")
    assert alone["parameters"]["gamma"] == pytest.approx(0.05, rel=1e-3)
    imported(export, tmp_path)
    found = read("compare", ran("compare", "ours", "ext", "--output", str(tmp_path), "--json"))
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("ours: AR", "ext: fast")
    assert pair["multiplier"] == pytest.approx(times, rel=0.02)
    assert any("same text and tokenizer is not known" in text for text in found["caveats"])


def test_runs_of_tables_are_of_both_where_their_numbers_are_the_same(tmp_path: Path) -> None:
    rows = wandb_rows(("fast",))
    other = [row | {"val/loss": row["val/loss"] + 0.1} for row in rows]  # one design, other runs
    paths = [written(tmp_path / f"{n}.csv", r) for n, r in enumerate((rows, other, rows[:2]))]

    def caveats(*places: str) -> str:
        found = ran("compare", *places, "--output", str(tmp_path), "--map", MAP, "--json")
        return str(json.loads(found)["caveats"])

    assert "in both" not in caveats(*paths[:2])
    imported(written(tmp_path / "named.csv", rows[:3] + other[3:]), tmp_path)
    assert "3 runs have the same parameters, tokens, compute and loss in both" in caveats(
        "ext", paths[0]
    )


def test_losses_of_different_texts_are_compared_only_when_asked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for study, unigram in (("one", 7.0), ("other", 7.5)):
        for rung in range(3):
            store.run(study, "ar", rung, lines={"uniform": 9.0, "unigram": unigram},
                      **{Tag.RUN_KEY: f"{study}-{rung}"})  # fmt: skip
    sides = [Side(name, read_study(name, store.uri)) for name in ("one", "other")]
    shared = shared_by(*sides)
    assert "unigram 7.0000 against uniform 9.0000, unigram 7.5000" in shared.differences[0]
    assert shared_by(sides[0], sides[0]).differences == []
    assert "3 runs are of both" in shared_by(sides[0], sides[0]).caveats[0]
    for name in ("one", "other"):
        folder = tmp_path / "studies" / name
        folder.mkdir(parents=True)
        (folder / "study.yaml").write_text(f"name: {name}\ntracking: {{uri: {store.uri}}}\n")
    place = ["one", "other", "--output", str(tmp_path)]
    with pytest.raises(SpecError, match=r"different text or tokens.*--different-data"):
        ran("compare", *place)
    assert "[their scores are of different text" in ran("compare", *place, "--different-data")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none", "nothing"], "holds no such study"),
        (["--plot", "a.txt"], "figures are written as .png"),
        (["--plot", "gone/a.png"], "there is no folder"),
        (["--map", "loss=x"], "neither of the two is one"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(
    tmp_path: Path, arguments: list[str], problem: str
) -> None:
    imported(written(tmp_path / "fast.csv", wandb_rows(("fast",))), tmp_path)
    names = [] if arguments[0] == "none" else ["ext", "ext"]
    with pytest.raises(SpecError, match=problem):
        ran("compare", *names, *arguments, "--output", str(tmp_path))


def test_a_table_needs_a_map(tmp_path: Path) -> None:
    path = written(tmp_path / "fast.csv", wandb_rows(("fast",)))
    imported(path, tmp_path)
    with pytest.raises(SpecError, match="say which columns have what"):
        ran("compare", "ext", path, "--output", str(tmp_path))
