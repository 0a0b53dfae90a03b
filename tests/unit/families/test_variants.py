"""Several entries of one family in a study: each is a curve of its own, everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from analysis.plotting.variants import styles_of, variants_of
from analysis.report.report import ReportResult, write_report
from analysis.report.runs import read_study
from cola.errors import SpecError
from cola.records import Tag
from cola.spec import apply_overrides, check_path
from cola.spec.schema import json_schema
from cola.study import StudySpec
from orchestration.cli.tables import print_runs
from orchestration.driver.attempt import opening_tags
from orchestration.driver.status import run_status
from orchestration.planning.decisions import slot_of
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.state.ledger import Ledger
from sweeps.cli import app
from sweeps.driver.plan import plan_sweep
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from tests.conftest import write_study
from tests.pages import text_of
from tests.unit.analysis.store import Store

VARIANTS = {
    "cola-d4": {"family": "cola", "latent_dim": 4, "block_size": 8},
    "ar": {},
    "cola-v1.5": {"family": "cola", "latent_dim": 8, "block_size": 8},
}


@pytest.fixture
def study(tiny_study: dict[str, Any]) -> dict[str, Any]:
    return tiny_study | {"name": "variants", "families": VARIANTS}


def plan(values: dict[str, Any]) -> list[PlannedRun]:
    return plan_study(StudySpec.parse(values))


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as refused:
        plan(values)
    return str(refused.value)


def test_every_entry_is_planned_under_its_own_name(study: dict[str, Any]) -> None:
    runs = plan(study)
    assert [run.name for run in runs] == [
        "ar-2e+10-seed66",  # families in the registry's order, variants as the study lists them
        "cola-d4-2e+10-seed66",
        "cola-v1.5-2e+10-seed66",
    ]
    assert [run.variant for run in runs] == ["ar", "cola-d4", "cola-v1.5"]
    assert [run.spec.family for run in runs] == ["ar", "cola", "cola"]
    assert len({run.key for run in runs}) == len({slot_of(run) for run in runs}) == 3


def test_a_name_changes_nothing_of_the_run(study: dict[str, Any]) -> None:
    """A run is reused whatever the study calls its curve."""
    settings = {key: value for key, value in VARIANTS["cola-d4"].items() if key != "family"}
    plain = plan(study | {"families": {"cola": settings}})
    assert plain[0].key == plan(study)[1].key


def test_a_study_of_variants_is_read_again_as_it_was_written(study: dict[str, Any]) -> None:
    parsed = StudySpec.parse(study)
    written = yaml.safe_load(parsed.to_yaml())
    assert StudySpec.parse(written) == parsed
    assert [value.get("family") for value in written["families"].values()] == [None, "cola", "cola"]


def test_equal_variants_are_refused(study: dict[str, Any]) -> None:
    study["families"] = VARIANTS | {"again": VARIANTS["cola-d4"]}
    assert "families.again: is the same as families.cola-d4 at rung 0" in refusal(study)
    # Their settings differ, and yet not what is trained: the paper's row has sizes of its own.
    study["families"] = {"cola": {}, "other": {"family": "cola", "vae_share": 0.5}}
    study |= {"ladder": [{"budget": 1e18, "row": "paper-2b"}]}
    assert "families.other: is the same as families.cola" in refusal(study)


@pytest.mark.parametrize(
    ("families", "said"),
    [
        ({"mine": {"latent_dim": 4}}, "families.mine: unknown family 'mine'; valid: ar, llada"),
        ({"mine": {"family": "gpt"}}, "families.mine: unknown family 'gpt'"),
        ({"ar": {"family": "cola"}}, "'ar' is the name of a family"),
        ({"mine too": {"family": "cola"}}, "'mine too' cannot name an entry"),
        ({"mine": {"family": "ar", "latent_dim": 4}}, "families.mine.latent_dim: unknown key"),
        ({"mine": {"family": "cola", "latent_dims": 4}}, "did you mean families.mine.latent_dim?"),
    ],
)
def test_entries_that_cannot_be_are_refused(
    families: dict[str, Any], said: str, study: dict[str, Any]
) -> None:
    assert said in refusal(study | {"families": families})


def test_the_json_schema_knows_entries_with_and_without_a_family(study: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    check = jsonschema.Draft202012Validator(json_schema(StudySpec)).is_valid
    for good in (VARIANTS, {"ar": None, "cola": {"latent_dim": 8}}, ["ar", "llada"]):
        assert check(study | {"families": good})
    for bad in ({}, {"mine": {}}, {"cola": {"latent_dims": 8}}, {"a": {"family": "gpt"}}, ["gpt"]):
        assert not check(study | {"families": bad}), bad


def test_settings_reach_an_entry_whatever_its_name(study: dict[str, Any]) -> None:
    settings = [
        "families.cola-d4.latent_dim=2",
        "families.cola-v1.5.objective={}",
        "families.cola-v1.5.objective.stage1_share=0.4",
    ]
    families = StudySpec.parse(apply_overrides(study, settings)).families
    found = families["cola-d4"].model_dump() | {}
    assert found["latent_dim"] == 2
    assert families["cola-v1.5"].objective.stage_shares()["vae"] == 0.4
    for key in ("cola-d4.latent_dim", "cola-v1.5.objective.stage1_share", "mine.latent_dim"):
        check_path(StudySpec, f"families.{key}", "a test")
    for key in ("ar.latent_dim", "cola.latent_dims", "cola-d4.latent_dims", "cola.x.latent_dim"):
        with pytest.raises(SpecError, match="unknown key"):
            check_path(StudySpec, f"families.{key}", "a test")


def test_the_plan_shows_every_curve(study: dict[str, Any], tmp_path: Path) -> None:
    path = str(write_study(study, tmp_path))
    shown = CliRunner().invoke(app, ["plan", path], catch_exceptions=False, env={"COLUMNS": "250"})
    assert "cola-d4-2e+10-seed66" in shown.stdout
    assert "cola-v1.5-2e+10-seed66" in shown.stdout
    found = json.loads(CliRunner().invoke(app, ["plan", path, "--json"]).stdout)
    rows = [(run["variant"], run["family"]) for run in found["runs"]]
    assert rows == [("ar", "ar"), ("cola-d4", "cola"), ("cola-v1.5", "cola")]


def test_tags_and_status_name_the_curve(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = plan(study)
    tags = [opening_tags("variants", run) for run in runs]
    named = [(t[Tag.FAMILY], t[Tag.VARIANT]) for t in tags]
    assert named == [("ar", "ar"), ("cola", "cola-d4"), ("cola", "cola-v1.5")]
    rows = [run_status(run, Ledger(tmp_path), None) for run in runs]
    assert [row["variant"] for row in rows] == ["ar", "cola-d4", "cola-v1.5"]
    print_runs("variants", rows, workers=False, wide=False)
    assert "variant" in capsys.readouterr().out
    print_runs("plain", rows[:1], workers=False, wide=False)
    assert "variant" not in capsys.readouterr().out


def test_a_sweep_goes_over_the_keys_of_an_entry(study: dict[str, Any]) -> None:
    del study["name"]
    study["families"] = {"mine.1": VARIANTS["cola-d4"]}
    values = {
        "name": "sweep",
        "study": study,
        "space": {"families.mine.1.latent_dim": [2, 4]},
        "algorithm": {"kind": "grid"},
    }
    (arm,) = plan_sweep(PointPlanner(SweepSpec.parse(values), [])).arms
    assert [planned.point for planned in arm.points] == [
        {"families.mine.1.latent_dim": size} for size in (2, 4)
    ]
    assert {run.name for c in arm.points for run in c.runs} == {"mine.1-2e+10-seed66"}
    values["space"] = {"families.mine.latent_dim": [2, 4]}
    with pytest.raises(SpecError, match=r"the study has no such entry; families has mine\.1"):
        PointPlanner(SweepSpec.parse(values), [])


def test_a_sweep_does_not_average_over_variants(study: dict[str, Any]) -> None:
    del study["name"]
    values = {
        "name": "sweep",
        "study": study,
        "space": {"training.batch_sequences": [4, 8]},
        "algorithm": {"kind": "grid"},
    }
    with pytest.raises(
        SpecError, match=r"has 3 entries in families \(.*\), whose metrics do not compare"
    ):
        PointPlanner(SweepSpec.parse(values), [])


def test_variants_share_a_hue_and_nothing_else() -> None:
    names = {"ar": "ar", "cola": "cola", **{f"cola-{n}": "cola" for n in range(7)}}
    runs = pd.DataFrame({"variant": list(names), "family": list(names.values())})
    styles = styles_of(variants_of(runs.sample(frac=1, random_state=0)))
    assert list(styles) == list(names)
    assert (styles["cola"].colour, styles["cola"].marker, styles["cola"].dash) == (
        "#009E73",
        "o",
        "--",
    )
    mine = [style for name, style in styles.items() if name.startswith("cola")]
    assert len({(s.colour, s.marker, str(s.dash)) for s in mine}) == len(mine)
    assert len({s.marker for s in mine}) == len(mine)
    assert {style.line("exact") for style in styles.values()} == {"-"}
    assert "-" not in {style.line("bound") for style in styles.values()}
    assert [styles[name].label for name in ("cola", "cola-0")] == ["Cola DLM", "cola-0"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    for rung in range(4):
        store.run("curves", "ar", rung)
        for variant, level in (("cola-d4", 4.0), ("cola-v1.5", 4.1)):
            key = {Tag.RUN_KEY: f"{variant}-{rung}", Tag.VARIANT: variant}
            store.run("curves", "cola", rung, level=level, **key)
    return store


@pytest.fixture(scope="module")
def report(store: Store) -> ReportResult:
    return write_report("curves", store.uri, store.folder / "report", spec={})


@pytest.mark.slow
def test_the_report_has_a_curve_a_variant(report: ReportResult) -> None:
    fits, folder = report.fits, report.html.parent
    assert {name: fit.label for name, fit in fits.items()} == {
        "ar": "AR",
        "cola-d4": "cola-d4",
        "cola-v1.5": "cola-v1.5",
    }
    html = text_of(report.html.read_text())
    assert "cola-v1.5 against cola-d4: " in html
    assert "cola-d4 against AR: " in html
    assert "cola-d4: the bound on the NLL goes from" in html
    assert "cola-v1.5 (bound)" in html
    for text in ("|cola-d4 (cola-", "|cola-v1.5 (cola-", "cola-d4 cola-8e+12-seed66"):
        assert text in html, text
    assert "AR 10^4, cola-d4 10^4, cola-v1.5 10^4" in html  # tokens of the top rung
    curves = pd.read_csv(folder / "fitted_curves.csv")
    assert set(curves["variant"]) == set(fits)
    assert set(curves["family"]) == {"ar", "cola"}
    pairs = pd.read_csv(folder / "multipliers.csv")
    assert ("cola-d4", "cola-v1.5") in set(zip(pairs["one"], pairs["other"], strict=True))


@pytest.mark.slow
def test_variants_do_not_share_their_noise(report: ReportResult) -> None:
    ours = {name: fit.refits for name, fit in report.fits.items() if fit.refits is not None}
    first, second = (ours[name].public[:, -1] for name in ("cola-d4", "cola-v1.5"))
    assert not (first == second).all()


def test_runs_of_stores_without_the_tag_are_their_familys(store: Store) -> None:
    frames = read_study("curves", store.uri)
    assert list(frames.runs["variant"].unique()) == ["ar", "cola-d4", "cola-v1.5"]
    plain = frames.runs[frames.runs["family"] == "ar"]
    assert set(plain["variant"]) == {"ar"}
