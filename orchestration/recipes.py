"""Recipes that start a study on a cluster: KubeRay RayJob, Slurm script, `ray up` cluster.

Numbers follow from the study's resources. Tokens are referred to, never written down.
"""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from cola.spec import SpecError, StudySpec
from orchestration.costs import run_costs
from orchestration.jobs import STOP_SECONDS, check_paths
from orchestration.plan import output_root, plan_study
from orchestration.rates import measured_rates

Kind = Literal["kuberay", "slurm", "ray-up"]
MOUNT = "/shared"  # where recipes expect the storage that all nodes see
TOKEN_SECRET = "ray-auth-token"  # noqa: S105 (the name of a secret, not a secret)
STUDY_CONFIG = "cola-study"
HOURS_SPARE = 1.5  # of the planned time


@dataclass(frozen=True)
class Shape:
    """Nodes of the cluster: how many, and what is on each."""

    nodes: int
    workers_per_node: int
    cpus: int
    gpus: int
    hours: int

    @classmethod
    def of(cls, study: StudySpec, gpus_per_node: int, cpus_per_node: int) -> Shape:
        """As few nodes as hold one run's workers.

        Raises:
            SpecError: when a node holds no worker.
        """
        resources = study.resources
        by_cpu = int(cpus_per_node // resources.cpus_per_worker)
        each = by_cpu
        if resources.gpus_per_worker:
            each = min(by_cpu, int(gpus_per_node / resources.gpus_per_worker))
        if each < 1:
            raise SpecError(
                f"a node of {cpus_per_node} CPUs and {gpus_per_node} GPUs holds no worker of "
                f"resources.cpus_per_worker={resources.cpus_per_worker:g} and "
                f"gpus_per_worker={resources.gpus_per_worker:g}; give --cpus-per-node, "
                "--gpus-per-node"
            )
        each = min(each, resources.workers)
        nodes = math.ceil(resources.workers / each)
        gpus = math.ceil(each * resources.gpus_per_worker)
        cpus = math.ceil(each * resources.cpus_per_worker)
        return cls(nodes, each, cpus, gpus, planned_hours(study))


def planned_hours(study: StudySpec) -> int:
    """Hours for all runs one after another, with something to spare."""
    rates = measured_rates(output_root(study))
    seconds = sum(
        run_costs(
            run.spec, run.resources, run.total_parameters, study.checkpoint.keep, rates
        ).seconds
        for run in plan_study(study)
    )
    return max(1, math.ceil(HOURS_SPARE * seconds / 3600))


def recipe(kind: Kind, study: StudySpec, shape: Shape, image: str = "cola-scaling:latest") -> str:
    """The recipe's text.

    Raises:
        SpecError: a study with relative paths.
    """
    check_paths(study)
    if kind == "slurm":
        return slurm(study, shape)
    if kind == "kuberay":
        documents = [study_config(study), ray_job(study, shape, image)]
        return yaml.safe_dump_all(documents, sort_keys=False)
    return yaml.safe_dump(ray_up(study, shape, image), sort_keys=False)


def slurm(study: StudySpec, shape: Shape) -> str:
    """A batch script over several nodes, queued again until the study is finished."""
    environment = Environment(
        loader=PackageLoader("orchestration"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (a shell script; every value below is checked or a number)
    )
    # The name is of [a-z0-9._-] by its specification, which stands in a quoted here-document.
    return environment.get_template("slurm.sh.j2").render(
        name=study.name,
        study=f"{study.name}.yaml",
        specification=study.to_yaml(),
        nodes=shape.nodes,
        per_node=shape.workers_per_node,
        cpus=shape.cpus,
        gpus=shape.gpus,
        time=f"{min(shape.hours, 48)}:00:00",
        grace=STOP_SECONDS,
    )


def study_config(study: StudySpec) -> dict[str, Any]:
    """The study's specification as a ConfigMap, mounted into the head."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{STUDY_CONFIG}-{kubernetes_name(study)}"},
        "data": {"study.yaml": study.to_yaml()},
    }


def ray_job(study: StudySpec, shape: Shape, image: str) -> dict[str, Any]:
    """A RayJob that brings its own cluster and takes it down when the study has ended."""
    name = kubernetes_name(study)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": f"cola-{name}"},
        "spec": {
            "entrypoint": "cola run /study/study.yaml --address auto",
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "backoffLimit": 3,  # a new attempt goes on from the ledger
            "suspend": False,
            "rayClusterSpec": {
                "rayVersion": importlib.metadata.version("ray"),
                # KubeRay hands the secret's `auth_token` to every container of the cluster.
                "authOptions": {"mode": "token", "secretName": TOKEN_SECRET},
                "enableInTreeAutoscaling": True,
                "headGroupSpec": {
                    # The job is submitted from a pod of its own, which needs the dashboard.
                    "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104
                    "template": pod(image, 4, 0, name, head=True),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "gpu" if shape.gpus else "cpu",
                        "replicas": shape.nodes,
                        # A run is refused on a cluster that is smaller than it: all stay.
                        "minReplicas": shape.nodes,
                        "maxReplicas": shape.nodes,
                        "rayStartParams": {},
                        "template": pod(image, shape.cpus, shape.gpus, name, head=False),
                    }
                ],
            },
        },
    }


def pod(image: str, cpus: int, gpus: int, name: str, head: bool) -> dict[str, Any]:
    """A pod with shared storage and (on the head) the study."""
    limits = {"cpu": str(cpus), "memory": f"{max(16, 8 * cpus)}Gi"}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    mounts = [
        {"name": "shared", "mountPath": MOUNT},
        {"name": "memory", "mountPath": "/dev/shm"},  # noqa: S108 (gloo and NCCL use it)
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "shared", "persistentVolumeClaim": {"claimName": "cola-shared"}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]
    if head:
        mounts.append({"name": "study", "mountPath": "/study"})
        volumes.append({"name": "study", "configMap": {"name": f"{STUDY_CONFIG}-{name}"}})
    container = {
        "name": "ray-head" if head else "ray-worker",
        "image": image,
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
        "resources": {"limits": limits, "requests": dict(limits)},
        "volumeMounts": mounts,
    }
    return {
        "spec": {
            "terminationGracePeriodSeconds": STOP_SECONDS,
            "containers": [container],
            "volumes": volumes,
        }
    }


def ray_up(study: StudySpec, shape: Shape, image: str) -> dict[str, Any]:
    """A cluster for `ray up` on machines of your own; submit with `cola submit` once it is up."""
    return {
        "cluster_name": f"cola-{study.name}",
        "max_workers": shape.nodes,
        "docker": {"image": image, "container_name": "cola", "pull_before_run": True},
        "provider": {
            "type": "local",
            "head_ip": "HEAD_ADDRESS",
            "worker_ips": [f"WORKER_{number}_ADDRESS" for number in range(1, shape.nodes + 1)],
        },
        "auth": {"ssh_user": "USER", "ssh_private_key": "~/.ssh/id_ed25519"},
        "file_mounts": {"~/.ray/auth_token": "~/.ray/auth_token"},
        "head_start_ray_commands": [
            "ray stop",
            "RAY_AUTH_MODE=token ray start --head --port=6379 --num-cpus=0 "
            "--dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            f"RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379 --num-cpus={shape.cpus} "
            f"--num-gpus={shape.gpus}",
        ],
    }


def kubernetes_name(study: StudySpec) -> str:
    """The study's name in the characters that Kubernetes allows."""
    return study.name.replace("_", "-").replace(".", "-").strip("-")
