"""A study on machines with an SSH login: a cluster for `ray up`."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from cola.study import StudySpec
from orchestration.recipes.node_groups import NodeGroup
from orchestration.recipes.recipes import (
    MOUNT,
    check_mounted,
    credentials,
    only_group,
    start_options,
)
from orchestration.recipes.registry import Kind, RecipeRequest


def text(request: RecipeRequest) -> str:
    """The cluster's YAML.

    Raises:
        SpecError: a path outside the mounted storage, or several groups of nodes.
    """
    study = request.work.study
    check_mounted(study)
    group = only_group(KIND.name, request.groups)
    return yaml.safe_dump(ray_up(study, group, request.image), sort_keys=False)


def ray_up(study: StudySpec, group: NodeGroup, image: str) -> dict[str, Any]:
    """A `ray up` cluster on machines with an SSH login; `cola submit` runs the study on it."""
    return {
        "cluster_name": f"cola-{study.name}",
        "min_workers": group.limit,
        "max_workers": group.limit,
        "docker": {
            "image": image,
            "container_name": "cola",
            "pull_before_run": True,
            "run_options": [
                f"--volume={MOUNT}:{MOUNT}",
                # By name: docker takes the value from the environment of the machine.
                *(f"--env={name}" for name in credentials(study)),
            ],
        },
        "provider": {
            "type": "local",
            "head_ip": "HEAD_ADDRESS",
            "worker_ips": [f"WORKER_{number}_ADDRESS" for number in range(1, group.limit + 1)],
        },
        "auth": {"ssh_user": "USER", "ssh_private_key": "~/.ssh/id_ed25519"},
        "file_mounts": {"~/.ray/auth_token": "~/.ray/auth_token"},
        "head_start_ray_commands": [
            "ray stop",
            # The head coordinates; no worker of a run is ever placed on it.
            "RAY_AUTH_MODE=token ray start --head --port=6379 --num-cpus=0 --num-gpus=0 "
            "--dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            "RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379 "
            + shlex.join(start_options(group)),
        ],
    }


KIND = Kind("ray-up", "a `ray up` file", text)
