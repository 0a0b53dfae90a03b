"""A sweep that is sent is the sweep that was named: same points, same runs, in one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cola.errors import SpecError
from orchestration.recipes.registry import recipe
from orchestration.remote.clusters import ClusterSpec
from sweeps.driver.submission import sweep_submission
from sweeps.space.catalog import load_sweep, shipped_sweeps
from sweeps.space.points import PointPlanner
from sweeps.space.space import grid


def test_a_sent_sweep_has_the_same_points_and_runs(tmp_path: Path) -> None:
    sweep, settings = load_sweep("rq3-diffusion", "laptop"), ["output=/shared/outputs"]
    work = sweep_submission(sweep, settings)
    (tmp_path / work.file).write_text(work.specification)
    sent = PointPlanner(load_sweep(str(tmp_path / work.file), None), [])
    named = PointPlanner(sweep, settings)
    assert (work.kind, work.name, work.verbs) == ("sweep", "rq3-diffusion", ["sweep", "run"])
    assert sent.base == named.base == work.study
    assert sent.sweep.model_copy(update={"study": "", "set": {}}) == named.sweep.model_copy(
        update={"study": "", "set": {}, "scales": {}}
    )
    arm = named.arms()[0]
    point = next(grid(named.sweep.spaces()[arm]))
    assert sent.plan(arm, point).identity == named.plan(arm, point).identity
    assert work.seconds() > 0


def test_a_recipe_runs_a_sweep(tmp_path: Path) -> None:
    work = sweep_submission(load_sweep("rq3-diffusion", "laptop"), ["output=/shared/outputs"])
    slurm = recipe("slurm", work, ClusterSpec(kind="slurm", shared="/", cpus_per_node=4))
    assert "exec cola slurm-job rq3-diffusion.yaml --kind sweep" in slurm
    assert "#SBATCH --job-name=cola-rq3-diffusion" in slurm
    text = recipe("kuberay", work, ClusterSpec(kind="kuberay"))
    config, job = yaml.safe_load_all(text)
    assert job["spec"]["entrypoint"] == "cola sweep run /study/sweep.yaml --address auto"
    assert yaml.safe_load(config["data"]["sweep.yaml"])["name"] == "rq3-diffusion"


def test_relative_paths_and_misspelt_choices_are_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    with pytest.raises(SpecError, match="output=outputs: a submitted study needs an absolute path"):
        sweep_submission(load_sweep("rq3-diffusion", "laptop"), [])
    values = yaml.safe_load(shipped_sweeps()["rate-schedules"].read_text())
    key = "training.schedule.kind"
    values["space"][key] = ["cosine", "cosinus"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(SpecError, match=rf"space\.{key}\.values\.1: .*cosinus"):
        load_sweep(str(tmp_path / "sweep.yaml"), None)
