"""A study on Kubernetes: a KubeRay RayJob that brings its own cluster."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import yaml

from orchestration.recipes.node_groups import NodeGroup
from orchestration.recipes.recipes import MOUNT, check_mounted, credentials
from orchestration.recipes.registry import Kind, RecipeRequest
from orchestration.remote.packaging import STOP_SECONDS
from orchestration.remote.submission import Submission

CLAIM = "cola-shared"
TOKEN_SECRET = "ray-auth-token"  # noqa: S105 (the name of a secret, not a secret)
CREDENTIALS_SECRET = "cola-credentials"  # noqa: S105
STUDY_CONFIG = "cola-study"
IDLE_SECONDS = 600  # before the autoscaler takes a node away; a chosen value
KEEP_SECONDS = 600  # that the finished RayJob can be looked at; a chosen value
ATTEMPTS = 3  # after the first, each of which resumes from the ledger; a chosen value
HEAD_CPUS = 4  # for Ray's head, the dashboard and the study's driver; a chosen value
# Memory of a pod: chosen values.
GIB_PER_CPU, LEAST_GIB = 8, 16


class Readable(yaml.SafeDumper):
    """Writes texts of several lines (the study in its ConfigMap) as blocks."""


def represent_text(dumper: Readable, text: str) -> yaml.ScalarNode:
    """A text as a YAML scalar: a block where it has several lines."""
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Readable.add_representer(str, represent_text)


def text(request: RecipeRequest) -> str:
    """The ConfigMap and the RayJob as YAML.

    Raises:
        SpecError: a path outside the mounted storage.
    """
    work = request.work
    check_mounted(work.study)
    job = ray_job(work, request.groups, request.image, credentials=credentials(work.study))
    return yaml.dump_all([study_config(work), job], Dumper=Readable, sort_keys=False)


def study_config(work: Submission) -> dict[str, Any]:
    """A ConfigMap with the specification, for the head to mount."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{STUDY_CONFIG}-{kubernetes_name(work.name)}"},
        "data": {work.file: work.specification},
    }


def ray_job(
    work: Submission, groups: Sequence[NodeGroup], image: str, *, credentials: Sequence[str]
) -> dict[str, Any]:
    """A RayJob whose cluster is deleted when the study or sweep has ended.

    `credentials` are names of environment variables (see `recipes.credentials`).
    """
    name = kubernetes_name(work.name)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": f"cola-{name}"},
        "spec": {
            "entrypoint": f"cola {' '.join(work.verbs)} /study/{work.file} --address auto",
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEEP_SECONDS,
            "backoffLimit": ATTEMPTS,
            "suspend": False,
            "rayClusterSpec": {
                "rayVersion": importlib.metadata.version("ray"),
                # KubeRay hands the secret's `auth_token` to every container of the cluster.
                "authOptions": {"mode": "token", "secretName": TOKEN_SECRET},
                "enableInTreeAutoscaling": True,
                # Only the second version starts nodes by their labels.
                "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": IDLE_SECONDS},
                "headGroupSpec": {
                    "rayStartParams": {
                        # The head coordinates; no worker of a run is ever placed on it.
                        "num-cpus": "0",
                        "num-gpus": "0",
                        # Another pod submits the job, and reaches the dashboard by the network.
                        "dashboard-host": "0.0.0.0",  # noqa: S104
                    },
                    "template": pod(
                        image, HEAD_CPUS, 0, name=name, credentials=credentials, head=True
                    ),
                },
                "workerGroupSpecs": [
                    worker_group(index, group, image, name=name, credentials=credentials)
                    for index, group in enumerate(groups)
                ],
            },
        },
    }


def worker_group(
    index: int, group: NodeGroup, image: str, *, name: str, credentials: Sequence[str]
) -> dict[str, Any]:
    """A worker group for the runs of one choice of labels."""
    spec: dict[str, Any] = {
        "groupName": f"{'gpu' if group.gpus else 'cpu'}-{index}",
        # A run is launched once the cluster can hold it, so nothing asks the autoscaler for its
        # nodes: all of them start, and idle ones are given back down to what one run needs.
        "replicas": group.limit,
        "minReplicas": group.least,
        "maxReplicas": group.limit,
        "rayStartParams": {},
        "template": pod(
            image, group.cpus, group.gpus, name=name, credentials=credentials, head=False
        ),
    }
    if group.labels:
        spec["labels"] = group.labels
    return spec


def pod(
    image: str, cpus: int, gpus: int, *, name: str, credentials: Sequence[str], head: bool
) -> dict[str, Any]:
    """A pod with shared storage, credentials by reference and (on the head) the study."""
    limits = {"cpu": str(cpus), "memory": f"{max(LEAST_GIB, GIB_PER_CPU * cpus)}Gi"}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    mounts = [
        {"name": "shared", "mountPath": MOUNT},
        {"name": "memory", "mountPath": "/dev/shm"},  # noqa: S108 (gloo and NCCL use it)
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "shared", "persistentVolumeClaim": {"claimName": CLAIM}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]
    if head:
        mounts.append({"name": "study", "mountPath": "/study"})
        volumes.append({"name": "study", "configMap": {"name": f"{STUDY_CONFIG}-{name}"}})
    container = {
        "name": "ray-head" if head else "ray-worker",
        "image": image,
        "env": [
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
            *(by_reference(variable) for variable in credentials),
        ],
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


def by_reference(variable: str) -> dict[str, Any]:
    """An environment variable whose value is the secret's key of the same name, if present."""
    key = {"name": CREDENTIALS_SECRET, "key": variable, "optional": True}
    return {"name": variable, "valueFrom": {"secretKeyRef": key}}


def kubernetes_name(name: str) -> str:
    """A study's or sweep's name in the characters that Kubernetes allows."""
    return name.replace("_", "-").replace(".", "-").strip("-")


KIND = Kind("kuberay", "a KubeRay RayJob", text)
