"""Recipes: the numbers of the study are in them, and no secret is."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import orchestration.recipes
from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.planning.catalog import load_study
from orchestration.recipes import registry
from orchestration.recipes.node_groups import NodeGroup, node_groups
from orchestration.recipes.registry import kinds
from orchestration.remote.clusters import ClusterSpec
from orchestration.remote.submission import study_submission

RECIPES = list(orchestration.recipes.__path__)


@pytest.fixture
def paper() -> StudySpec:
    return load_study("paper-2b", ["output=/shared/outputs"])


@pytest.fixture
def mixed(tiny_study: dict[str, Any]) -> StudySpec:
    """Small runs of one worker, large ones of four on nodes of their own."""
    tiny_study |= {
        "families": {"ar": {}},
        "ladder": [
            {"budget": 2e10, "core_parameters": 60_000},
            {"budget": 8e10, "core_parameters": 120_000},
        ],
        "resources": {
            "gpus_per_worker": 1,
            "cpus_per_worker": 4,
            "accelerator": "H100",
            "labels": {"ray.io/accelerator-type": "L40S"},
            "concurrent_runs": 2,
            "larger": [
                {
                    "core_parameters": 100_000,
                    "workers": 4,
                    "min_workers": 2,
                    "labels": {"pool": "large; touch /tmp/never"},
                }
            ],
        },
    }
    return StudySpec.parse(tiny_study)


def groups_of(study: StudySpec, gpus: int, cpus: int, limit: int | None = None) -> list[NodeGroup]:
    return node_groups(study_submission(study).resources, gpus, cpus, limit=limit)


def recipe(
    kind: str,
    study: StudySpec,
    gpus: int,
    *,
    cpus_per_node: int,
    limit: int | None = None,
    image: str = registry.IMAGE,
    **slurm: Any,
) -> str:
    """The recipe of a study, on nodes of that many GPUs and cores."""
    own = {"kind": "slurm", "shared": "/", **slurm} if kind == "slurm" else {"kind": "kuberay"}
    nodes = {"gpus_per_node": gpus, "cpus_per_node": cpus_per_node, "nodes": limit}
    cluster = ClusterSpec.parse(own | nodes)
    return registry.recipe(kind, study_submission(study), cluster, image=image)


def test_nodes_hold_one_runs_workers(paper: StudySpec) -> None:
    (group,) = groups_of(paper, 8, 96)
    assert (group.nodes, group.workers_per_node, group.gpus, group.cpus) == (8, 8, 8, 64)
    assert groups_of(paper, 4, 96)[0].nodes == 16
    assert groups_of(paper, 8, 32)[0].nodes == 16  # four workers of 8 CPUs each
    with pytest.raises(SpecError, match=r"holds no worker of .*cpus_per_worker=8"):
        groups_of(paper, 8, 4)
    assert groups_of(paper, 8, 96, limit=20)[0].limit == 20
    with pytest.raises(SpecError, match=r"--nodes 7: a run of resources\.workers=64 needs 8 nodes"):
        groups_of(paper, 8, 96, limit=7)


def test_every_choice_of_labels_is_a_group_for_its_largest_run(mixed: StudySpec) -> None:
    small, large = groups_of(mixed, 2, 16)
    assert small.labels == {"ray.io/accelerator-type": "L40S"}
    assert (small.least, small.nodes, small.limit, small.gpus, small.cpus) == (1, 1, 2, 1, 4)
    # Four workers on two nodes of two; two of them can go on alone, on one node.
    assert (large.least, large.nodes, large.limit, large.gpus, large.cpus) == (1, 2, 4, 2, 8)
    assert [group.nodes for group in groups_of(mixed, 2, 16, limit=1)] == [1, 1]


def test_a_ray_job_says_all_that_kuberay_needs(paper: StudySpec) -> None:
    config, job = yaml.safe_load_all(recipe("kuberay", paper, 8, cpus_per_node=96, image="image:1"))
    assert StudySpec.parse(yaml.safe_load(config["data"]["study.yaml"])) == paper
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["entrypoint"] == "cola run /study/study.yaml --address auto"
    cluster = spec["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (8, 8, 8)
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"] == {"version": "v2", "idleTimeoutSeconds": 600}
    # By reference: KubeRay reads the secret, and takes authOptions with a version of Ray only.
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-auth-token"}
    assert cluster["rayVersion"].startswith("2.")
    for template in (cluster["headGroupSpec"]["template"], group["template"]):
        (container,) = template["spec"]["containers"]
        assert container["image"] == "image:1"
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        assert volumes["shared"]["persistentVolumeClaim"] == {"claimName": "cola-shared"}
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "8"
    head = cluster["headGroupSpec"]["rayStartParams"]
    assert (head["num-cpus"], head["num-gpus"]) == ("0", "0")  # no worker lands on it
    with pytest.raises(SpecError, match=r"output=/data/out: containers see .* at /shared"):
        recipe("kuberay", paper.model_copy(update={"output": "/data/out"}), 8, cpus_per_node=96)


def test_labelled_groups_are_what_the_autoscaler_reads(mixed: StudySpec) -> None:
    """Ray's own autoscaler makes its node types of the groups."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    _, job = yaml.safe_load_all(recipe("kuberay", shared(mixed), 2, cpus_per_node=16, limit=6))
    custom = {"metadata": {"name": "c", "namespace": "n"}, "spec": job["spec"]["rayClusterSpec"]}
    types = _derive_autoscaling_config_from_ray_cr(custom)["available_node_types"]
    assert types["gpu-0"]["labels"] == {"ray.io/accelerator-type": "L40S"}
    assert types["gpu-0"]["resources"]["GPU"] == 1
    assert (types["gpu-0"]["min_workers"], types["gpu-0"]["max_workers"]) == (1, 6)
    head = next(kind for name, kind in types.items() if not name.startswith("gpu"))
    assert (head["resources"]["CPU"], head["resources"].get("GPU", 0)) == (0, 0)


def shared(study: StudySpec) -> StudySpec:
    """The study with its paths where containers look, and labels that Ray takes."""
    larger = [study.resources.larger[0].model_copy(update={"labels": {"pool": "large"}})]
    values = study.model_copy(
        update={
            "output": "/shared/outputs",
            "resources": study.resources.model_copy(update={"larger": larger}),
        }
    ).model_dump(mode="json")
    values["data"]["corpus"] = {"source": "python-stdlib"}
    return StudySpec.parse(values)


def test_credentials_are_names_of_variables(
    mixed: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hidden")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden")
    monkeypatch.setenv("TRACKING_SERVER", "https://me:hidden@tracking.example")
    values = shared(mixed).model_dump(mode="json")
    values["tracking"]["uri"] = "env:TRACKING_SERVER"
    values["checkpoint"]["storage"] = "s3://bucket/checkpoints"
    values["resources"]["larger"] = []
    study = StudySpec.parse(values)
    of_work = [name for name, kind in kinds().items() if kind.alone is None]
    texts = {kind: recipe(kind, study, 2, cpus_per_node=16) for kind in of_work}
    assert len(texts) == 3
    with pytest.raises(SpecError, match="--kind image: takes no study or sweep"):
        recipe("image", study, 2, cpus_per_node=16)
    assert not [kind for kind, text in texts.items() if "hidden" in text]
    _, job = yaml.safe_load_all(texts["kuberay"])
    cluster = job["spec"]["rayClusterSpec"]
    wanted = {"MLFLOW_TRACKING_PASSWORD", "TRACKING_SERVER", "AWS_SECRET_ACCESS_KEY"}
    for part in (cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]):
        (container,) = part["template"]["spec"]["containers"]
        by_name = {each["name"]: each for each in container["env"] if "valueFrom" in each}
        assert wanted <= set(by_name)
        assert by_name["TRACKING_SERVER"]["valueFrom"]["secretKeyRef"] == {
            "name": "cola-credentials",
            "key": "TRACKING_SERVER",
            "optional": True,
        }
    options = yaml.safe_load(texts["ray-up"])["docker"]["run_options"]
    assert {f"--env={name}" for name in wanted} <= set(options)


def test_ray_up_starts_workers_as_large_as_the_study_asks(paper: StudySpec) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    found = yaml.safe_load(recipe("ray-up", paper, 8, cpus_per_node=96))
    validate_config(prepare_config(copy.deepcopy(found)))  # Ray's own reading of the file
    assert found["max_workers"] == 8
    assert len(found["provider"]["worker_ips"]) == 8
    assert "--num-cpus=64 --num-gpus=8" in found["worker_start_ray_commands"][1]
    assert "--num-cpus=0 --num-gpus=0" in found["head_start_ray_commands"][1]


def test_one_script_starts_one_kind_of_nodes(mixed: StudySpec) -> None:
    for kind in ("slurm", "ray-up"):
        with pytest.raises(SpecError, match=r"nodes with different labels .*use --kind kuberay"):
            recipe(kind, shared(mixed), 2, cpus_per_node=16)


def test_relative_paths_are_refused(tiny_study: dict[str, Any]) -> None:
    study = StudySpec.parse(tiny_study | {"output": "outputs"})
    with pytest.raises(SpecError, match="needs an absolute path"):
        recipe("slurm", study, 0, cpus_per_node=4)


def test_a_new_kind_is_one_file(
    paper: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "by_hand.py").write_text(
        "from orchestration.recipes.registry import Kind\n"
        "def text(request):\n"
        "    return f'{request.work.name} on {request.groups[0].nodes} nodes\\n'\n"
        "KIND = Kind('by-hand', 'a note', text)\n"
    )
    monkeypatch.setattr(orchestration.recipes, "__path__", [*RECIPES, str(tmp_path)])
    kinds.cache_clear()
    try:
        assert list(kinds()) == ["image", "kuberay", "ray-up", "slurm", "by-hand"]
        assert recipe("by-hand", paper, 8, cpus_per_node=96) == "paper-2b on 8 nodes\n"
    finally:
        kinds.cache_clear()
    with pytest.raises(SpecError, match="--kind by-foot: unknown; valid: image, kuberay, "):
        recipe("by-foot", paper, 8, cpus_per_node=96)


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line[:8] == "#SBATCH "]


def test_a_slurm_script_is_a_script(paper: StudySpec, tmp_path: Path) -> None:
    text = recipe("slurm", paper, 8, cpus_per_node=96, limit=16)
    path = tmp_path / "study.sh"
    path.write_text(text)
    subprocess.run(["bash", "-n", path], check=True)
    assert text.startswith("#!/usr/bin/env bash\n")
    asked = directives(text)
    assert {"--nodes=8-16", "--gpus-per-node=8", "--cpus-per-task=64", "--requeue"} <= set(asked)
    # With a number of tasks Slurm takes the least of a range of nodes.
    assert not [option for option in asked if "ntasks" in option or option == "--exclusive"]
    assert "--signal=B:USR1@630" in asked  # 600 s for saving, 30 s for ending Ray
    assert "--nodes=8" in directives(recipe("slurm", paper, 8, cpus_per_node=96))
    inside = text.split("<<'END_OF_SPECIFICATION'\n")[1].split("END_OF_SPECIFICATION\n")[0]
    assert StudySpec.parse(yaml.safe_load(inside)) == paper
    code = text[text.index("set -euo") :]
    assert "#SBATCH" not in code  # Slurm reads directives before the first command only
    assert "auto" not in code.split("END_OF_SPECIFICATION\n")[-1]


def test_a_clusters_description_is_in_the_script(paper: StudySpec) -> None:
    text = recipe(
        "slurm", paper, 8, cpus_per_node=96, partition="gpu", account="team", qos="long",
        constraint="h100&nvlink", memory="500G", time="2-00", grace_seconds=900, exclusive=True,
        setup=["module load cuda", "source /shared/venv/bin/activate"],
    )  # fmt: skip
    asked = {
        "--partition=gpu", "--account=team", "--qos=long", "--constraint=h100&nvlink",
        "--mem=500G", "--time=2-00", "--signal=B:USR1@930", "--exclusive",
    }  # fmt: skip
    assert asked <= set(directives(text))
    assert text.index("module load cuda") < text.index("command -v cola")
    assert "--grace 900 " in text


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"time": "10"}, r"--time=10: a limit of 600 s leaves no time to train"),
        ({"time": "11:30"}, r"--time=11:30: a limit of 690 s"),
        ({"time": "soon"}, r"--time=soon: is no time limit of Slurm"),
        ({"partition": "gpu\n#SBATCH --exclusive"}, "partition: "),
        ({"memory": "lots"}, "memory: "),
        ({"setup": ["#SBATCH --qos=long"]}, "Slurm reads no directives"),
    ],
)
def test_what_slurm_would_misread_is_refused(
    paper: StudySpec, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SpecError, match=problem):
        recipe("slurm", paper, 8, cpus_per_node=96, **settings)


def test_what_a_shell_would_take_for_its_own_stays_text(mixed: StudySpec, tmp_path: Path) -> None:
    """The script with its last command replaced by one that shows its arguments."""
    values = mixed.model_dump(mode="json")
    values["description"] = "$(touch never)\nEND_OF_SPECIFICATION\ntouch never\n"
    values["resources"]["labels"] = values["resources"]["larger"][0].pop("labels")
    values["output"] = "/shared/my outputs; touch never"
    study = StudySpec.parse(values)
    text = recipe("slurm", study, 2, cpus_per_node=16)
    text = text.replace("command -v cola", "true").replace("exec cola", "printf '%s\\0'")
    (tmp_path / "study.sh").write_text(text)
    done = subprocess.run(
        ["bash", "study.sh"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert StudySpec.parse(yaml.safe_load((tmp_path / "tiny.yaml").read_text())) == study
    assert done.stdout.split("\0")[:-1] == [
        "slurm-job", "tiny.yaml", "--kind", "study", "--name", "tiny",
        "--output", "/shared/my outputs; touch never", "--grace", "600", "--cpus", "8",
        "--", "--num-cpus=8", "--num-gpus=2", "--labels=pool=large; touch /tmp/never",
    ]  # fmt: skip
    assert not (tmp_path / "never").exists()
