"""Recipes: the numbers of the study are in them, and no secret is."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cola.spec import SpecError, StudySpec
from orchestration.catalog import load_study
from orchestration.recipes import Shape, recipe


@pytest.fixture
def paper() -> StudySpec:
    return load_study("paper-2b", ["output=/shared/outputs"])


@pytest.fixture
def shape(paper: StudySpec) -> Shape:
    return Shape.of(paper, gpus_per_node=8, cpus_per_node=96)


def test_nodes_hold_one_runs_workers(paper: StudySpec, shape: Shape) -> None:
    assert (shape.nodes, shape.workers_per_node, shape.gpus, shape.cpus) == (8, 8, 8, 64)
    assert Shape.of(paper, 4, 96).nodes == 16
    assert Shape.of(paper, 8, 32).nodes == 16  # four workers of 8 CPUs each
    with pytest.raises(SpecError, match=r"holds no worker of .*cpus_per_worker=8"):
        Shape.of(paper, 8, 4)


def test_a_ray_job_says_all_that_kuberay_needs(paper: StudySpec, shape: Shape) -> None:
    config, job = yaml.safe_load_all(recipe("kuberay", paper, shape, "image:1"))
    assert StudySpec.parse(yaml.safe_load(config["data"]["study.yaml"])) == paper
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["entrypoint"] == "cola run /study/study.yaml --address auto"
    cluster = spec["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (8, 8)
    # By reference: KubeRay reads the secret, and takes authOptions with a version of Ray only.
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-auth-token"}
    assert cluster["rayVersion"].startswith("2.")
    for template in (cluster["headGroupSpec"]["template"], group["template"]):
        (container,) = template["spec"]["containers"]
        assert container["image"] == "image:1"
        names = {volume["name"] for volume in template["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= names
        assert "shared" in names
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_slurm_script_is_a_script(paper: StudySpec, shape: Shape, tmp_path: Path) -> None:
    text = recipe("slurm", paper, shape)
    path = tmp_path / "study.sh"
    path.write_text(text)
    subprocess.run(["bash", "-n", path], check=True)
    assert text.startswith("#!/usr/bin/env bash\n")
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert "#SBATCH --nodes=8" in directives
    assert "#SBATCH --gpus-per-node=8" in directives
    assert any(line.startswith("#SBATCH --signal=B:TERM@") for line in directives)
    assert "ray symmetric-run" in text
    assert "trap 'kill -TERM" in text
    inside = text.split("<<'END_OF_STUDY'\n")[1].split("END_OF_STUDY\n")[0]
    assert StudySpec.parse(yaml.safe_load(inside)) == paper
    code = text[text.index("set -euo") :]
    assert "#SBATCH" not in code  # Slurm reads directives before the first command only


def test_ray_up_starts_workers_as_large_as_the_study_asks(paper: StudySpec, shape: Shape) -> None:
    found = yaml.safe_load(recipe("ray-up", paper, shape))
    assert found["max_workers"] == 8
    assert len(found["provider"]["worker_ips"]) == 8
    assert "--num-cpus=64 --num-gpus=8" in found["worker_start_ray_commands"][1]


def test_relative_paths_are_refused(tiny_study: dict[str, Any]) -> None:
    study = StudySpec.parse(tiny_study | {"output": "outputs"})
    with pytest.raises(SpecError, match="needs an absolute path"):
        recipe("slurm", study, Shape.of(study, 0, 4))
