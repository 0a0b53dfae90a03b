"""A study on Kubernetes: a KubeRay RayJob that brings its own cluster."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from cola.study import StudySpec
from orchestration.recipes.node_groups import NodeGroup
from orchestration.remote.packaging import STOP_SECONDS

MOUNT = "/shared"  # where pods see the storage that all nodes share
CLAIM = "cola-shared"
TOKEN_SECRET = "ray-auth-token"  # noqa: S105 (the name of a secret, not a secret)
CREDENTIALS_SECRET = "cola-credentials"  # noqa: S105
STUDY_CONFIG = "cola-study"
IDLE_SECONDS = 600
HEAD_CPUS = 4


def study_config(study: StudySpec) -> dict[str, Any]:
    """The study's specification as a ConfigMap, mounted into the head."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{STUDY_CONFIG}-{kubernetes_name(study)}"},
        "data": {"study.yaml": study.to_yaml()},
    }


def ray_job(
    study: StudySpec, groups: Sequence[NodeGroup], image: str, credentials: Sequence[str]
) -> dict[str, Any]:
    """A RayJob whose cluster is taken down when the study has ended."""
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
                # Only the second version starts nodes by their labels.
                "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": IDLE_SECONDS},
                "headGroupSpec": {
                    "rayStartParams": {
                        # The head coordinates; no worker of a run is ever placed on it.
                        "num-cpus": "0",
                        "num-gpus": "0",
                        # The job is submitted from a pod of its own, which needs the dashboard.
                        "dashboard-host": "0.0.0.0",  # noqa: S104
                    },
                    "template": pod(image, HEAD_CPUS, 0, name, credentials, head=True),
                },
                "workerGroupSpecs": [
                    worker_group(place, group, image, name, credentials)
                    for place, group in enumerate(groups)
                ],
            },
        },
    }


def worker_group(
    place: int, group: NodeGroup, image: str, name: str, credentials: Sequence[str]
) -> dict[str, Any]:
    """Nodes with one choice of labels: all at once, then those that runs have use for."""
    found: dict[str, Any] = {
        "groupName": f"{'gpu' if group.gpus else 'cpu'}-{place}",
        # A run is launched when the cluster can hold it, which nobody asks the autoscaler for
        # before: all nodes start, and idle ones are given back down to what one run needs.
        "replicas": group.limit,
        "minReplicas": group.least,
        "maxReplicas": group.limit,
        "rayStartParams": {},
        "template": pod(image, group.cpus, group.gpus, name, credentials, head=False),
    }
    if group.labels:
        found["labels"] = group.labels
    return found


def pod(
    image: str, cpus: int, gpus: int, name: str, credentials: Sequence[str], head: bool
) -> dict[str, Any]:
    """A pod with shared storage, credentials by reference and (on the head) the study."""
    limits = {"cpu": str(cpus), "memory": f"{max(16, 8 * cpus)}Gi"}
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
    """A variable whose value is the secret's key of the same name, where it has one."""
    key = {"name": CREDENTIALS_SECRET, "key": variable, "optional": True}
    return {"name": variable, "valueFrom": {"secretKeyRef": key}}


def kubernetes_name(study: StudySpec) -> str:
    """The study's name in the characters that Kubernetes allows."""
    return study.name.replace("_", "-").replace(".", "-").strip("-")
