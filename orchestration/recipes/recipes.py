"""Recipes that start a study on a cluster: KubeRay RayJob, Slurm script, `ray up` cluster.

Numbers follow from the study's runs. Tokens and credentials are referred to, never written down.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.planning.costs import run_costs
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.rates import measured_rates
from orchestration.recipes.kuberay import MOUNT, ray_job, study_config
from orchestration.recipes.node_groups import NodeGroup, node_groups, own_labels
from orchestration.remote.packaging import STOP_SECONDS, check_study, paths_of
from orchestration.state.paths import output_root

Kind = Literal["kuberay", "slurm", "ray-up"]
HOURS_SPARE = 1.5  # of the planned time
MOST_HOURS = 48  # a Slurm job is queued again until the study is finished


class Readable(yaml.SafeDumper):
    """Writes texts of several lines (the study within a ConfigMap) as they are."""


def represent_text(dumper: Readable, text: str) -> yaml.ScalarNode:
    """A block where there are several lines."""
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Readable.add_representer(str, represent_text)


def recipe(
    kind: Kind,
    study: StudySpec,
    gpus_per_node: int,
    cpus_per_node: int,
    limit: int | None = None,
    image: str = "cola-scaling:latest",
) -> str:
    """The recipe's text, for nodes of so many GPUs and CPUs, at most `limit` of each kind.

    Raises:
        SpecError: a study with relative paths or a secret in it, nodes that are too small or too
            few, or several kinds of nodes where one script starts only one.
    """
    check_study(study)
    runs = plan_study(study)
    groups = node_groups(runs, gpus_per_node, cpus_per_node, limit)
    if kind == "slurm":
        return slurm(study, only_group(kind, groups), planned_hours(study, runs))
    check_mounted(study)
    if kind == "kuberay":
        documents = [study_config(study), ray_job(study, groups, image, credentials(study))]
        return yaml.dump_all(documents, Dumper=Readable, sort_keys=False)
    return yaml.safe_dump(ray_up(study, only_group(kind, groups), image), sort_keys=False)


def planned_hours(study: StudySpec, runs: Sequence[PlannedRun]) -> int:
    """Hours for all runs one after another, with something to spare."""
    rates = measured_rates(output_root(study))
    seconds = sum(
        run_costs(
            run.spec, run.resources, run.total_parameters, keep=study.checkpoint.keep, rates=rates
        ).seconds
        for run in runs
    )
    return max(1, math.ceil(HOURS_SPARE * seconds / 3600))


def only_group(kind: Kind, groups: Sequence[NodeGroup]) -> NodeGroup:
    """The one kind of nodes that a script or a list of machines can start.

    Raises:
        SpecError: the study's runs ask for several.
    """
    if len(groups) > 1:
        labels = "; ".join(str(group.labels or "none") for group in groups)
        raise SpecError(
            f"resources.larger: runs ask for nodes with different labels ({labels}), and a recipe "
            f"of --kind {kind} starts one kind of nodes; use --kind kuberay, or a study for each"
        )
    return groups[0]


def check_mounted(study: StudySpec) -> None:
    """What containers read and write must be where recipes mount the shared storage.

    Raises:
        SpecError: naming the key.
    """
    for key, value in paths_of(study).items():
        if not PurePosixPath(value).is_relative_to(MOUNT):
            raise SpecError(
                f"{key}={value}: containers see the shared storage at {MOUNT}, and lose what is "
                f"elsewhere; use a path below it (as --set output={MOUNT}/outputs)"
            )


def credentials(study: StudySpec) -> list[str]:
    """Names of the environment variables in which a study's services look for credentials."""
    names: list[str] = []
    uri, storage = study.tracking.uri, study.checkpoint.storage
    if uri is not None:
        names += ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"]
        if uri.startswith("env:"):
            names.append(uri.removeprefix("env:"))
    if storage is not None and urlsplit(storage).scheme == "s3":
        names += ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    if study.data.corpus.source == "huggingface":
        names.append("HF_TOKEN")
    return names


def slurm(study: StudySpec, group: NodeGroup, hours: int) -> str:
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
        nodes=group.limit if group.least >= group.limit else f"{group.least}-{group.limit}",
        per_node=group.workers_per_node,
        start=shlex.join(start_options(group)),
        cpus=group.cpus,
        gpus=group.gpus,
        time=f"{min(hours, MOST_HOURS)}:00:00",
        grace=STOP_SECONDS,
    )


def start_options(group: NodeGroup) -> list[str]:
    """What `ray start` is told of a node."""
    options = [f"--num-cpus={group.cpus}", f"--num-gpus={group.gpus}"]
    labels = ",".join(f"{key}={value}" for key, value in own_labels(group).items())
    return [*options, f"--labels={labels}"] if labels else options


def ray_up(study: StudySpec, group: NodeGroup, image: str) -> dict[str, Any]:
    """A cluster for `ray up` on machines of your own; submit with `cola submit` once it is up."""
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
