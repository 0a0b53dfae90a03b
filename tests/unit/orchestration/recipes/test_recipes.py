"""Recipes: the numbers of the study are in them, and no secret is."""

from __future__ import annotations

import copy
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import orchestration.recipes
from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.planning.catalog import load_study
from orchestration.planning.plan import plan_study
from orchestration.recipes.node_groups import NodeGroup, node_groups
from orchestration.recipes.registry import kinds, recipe

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
    return node_groups(plan_study(study), gpus, cpus, limit=limit)


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
    texts = {kind: recipe(kind, study, 2, cpus_per_node=16) for kind in kinds()}
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
        "    return f'{request.study.name} on {request.groups[0].nodes} nodes\\n'\n"
        "KIND = Kind('by-hand', 'a note', text)\n"
    )
    monkeypatch.setattr(orchestration.recipes, "__path__", [*RECIPES, str(tmp_path)])
    kinds.cache_clear()
    try:
        assert list(kinds()) == ["kuberay", "ray-up", "slurm", "by-hand"]
        assert recipe("by-hand", paper, 8, cpus_per_node=96) == "paper-2b on 8 nodes\n"
    finally:
        kinds.cache_clear()
    with pytest.raises(SpecError, match="--kind by-foot: unknown; valid: kuberay, "):
        recipe("by-foot", paper, 8, cpus_per_node=96)


STUBS = {
    # Three nodes; a task of several is run on the first alone, which is what matters here.
    "scontrol": (
        'echo "scontrol $*" >> "$CALLS"; '
        'if [ "$1" = show ]; then printf "%s\\n" n1 n2 n3; fi'
    ),
    "srun": (
        'echo "srun $*" >> "$CALLS"; '
        'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"'
    ),
    "hostname": "echo 10.0.0.1 10.0.0.2",
    # Ray's command starts what comes after its separator, and outlives a signal to that.
    "ray": (
        'printf "%s\\0" "$@" > "$ARGUMENTS"; '
        'while [ "$1" != -- ]; do shift; done; shift; "$@"; echo "ray stop" >> "$CALLS"'
    ),
    "cola": (
        'echo "cola $*" >> "$CALLS"; trap \'echo "cola saved" >> "$CALLS"; exit 1\' TERM; '
        'for _ in $(seq "${ROUNDS:-0}"); do read -r -t 0.1 <> "$FIFO" || true; done'
    ),
}  # fmt: skip


class Slurm:
    """A node's shell with stub commands, and the script started in it."""

    def __init__(self, folder: Path, script: str, rounds: int = 0) -> None:
        binaries = folder / "bin"
        binaries.mkdir()
        for name, body in STUBS.items():
            (binaries / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
            (binaries / name).chmod(0o755)
        (folder / "token").write_text("secret")
        (folder / "study.sh").write_text(script)
        os.mkfifo(folder / "fifo")
        self.folder, self.calls_file = folder, folder / "calls"
        self.process = subprocess.Popen(
            ["bash", "study.sh"],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
            env={
                "PATH": f"{binaries}:{os.environ['PATH']}",
                "HOME": str(folder),
                "TMPDIR": str(folder),
                "CALLS": str(self.calls_file),
                "ARGUMENTS": str(folder / "arguments"),
                "FIFO": str(folder / "fifo"),
                "ROUNDS": str(rounds),
                "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
                "SLURM_JOB_ID": "41",
                "SLURM_JOB_NUM_NODES": "3",
                "SLURM_JOB_NODELIST": "n[1-3]",
            },
        )

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def wait(self) -> int:
        _, errors = self.process.communicate(timeout=60)
        assert errors == ""
        assert not list(self.folder.glob("cola-pid.*"))
        return self.process.returncode


def test_a_slurm_script_is_a_script(paper: StudySpec, tmp_path: Path) -> None:
    text = recipe("slurm", paper, 8, cpus_per_node=96, limit=16)
    path = tmp_path / "study.sh"
    path.write_text(text)
    subprocess.run(["bash", "-n", path], check=True)
    assert text.startswith("#!/usr/bin/env bash\n")
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert "#SBATCH --nodes=8-16" in directives
    assert "#SBATCH --gpus-per-node=8" in directives
    assert "#SBATCH --nodes=8" in recipe("slurm", paper, 8, cpus_per_node=96).splitlines()
    assert any(line.startswith("#SBATCH --signal=B:TERM@") for line in directives)
    inside = text.split("<<'END_OF_STUDY'\n")[1].split("END_OF_STUDY\n")[0]
    assert StudySpec.parse(yaml.safe_load(inside)) == paper
    code = text[text.index("set -euo") :]
    assert "#SBATCH" not in code  # Slurm reads directives before the first command only


def test_a_slurm_script_runs_the_study_on_all_nodes(mixed: StudySpec, tmp_path: Path) -> None:
    values = mixed.model_dump(mode="json")
    # What a shell would take for its own stays text: in the study, and in its labels.
    values["description"] = "$(touch never)\nEND_OF_STUDY\ntouch never\n"
    values["resources"]["labels"] = values["resources"]["larger"][0].pop("labels")
    study = StudySpec.parse(values)
    node = Slurm(tmp_path, recipe("slurm", study, 2, cpus_per_node=16))
    assert node.wait() == 0
    assert StudySpec.parse(yaml.safe_load((tmp_path / "tiny.yaml").read_text())) == study
    arguments = (tmp_path / "arguments").read_text().split("\0")[:-1]
    assert arguments[: arguments.index("--")] == shlex.split(
        "symmetric-run --address 10.0.0.1:20041 --min-nodes 3 --num-cpus=8 --num-gpus=2 "
        "'--labels=pool=large; touch /tmp/never'"
    )
    assert [line for line in node.calls() if line.startswith("cola")] == [
        "cola run tiny.yaml --address auto"
    ]
    assert not (tmp_path / "never").exists()


def test_slurms_warning_stops_the_study_and_leaves_ray_up(paper: StudySpec, tmp_path: Path) -> None:
    node = Slurm(tmp_path, recipe("slurm", paper, 8, cpus_per_node=96), rounds=600)
    deadline = time.monotonic() + 60
    while "cola run paper-2b.yaml --address auto" not in node.calls():
        assert time.monotonic() < deadline, node.calls()
        signal.sigtimedwait([], 0.1)
    node.process.send_signal(signal.SIGTERM)  # to the script alone, as --signal=B: does
    assert node.wait() == 0
    assert node.calls()[-3:] == ["cola saved", "ray stop", "scontrol requeue 41"]


def test_without_a_token_nothing_starts(paper: StudySpec, tmp_path: Path) -> None:
    script = recipe("slurm", paper, 8, cpus_per_node=96)
    (tmp_path / "study.sh").write_text(script)
    done = subprocess.run(
        ["bash", "study.sh"], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, "no token at" in done.stderr) == (2, True)
    assert not (tmp_path / "paper-2b.yaml").exists()
