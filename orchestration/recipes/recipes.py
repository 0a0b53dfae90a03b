"""What recipes of several kinds share: where storage is mounted, credentials, options of Ray.

Tokens and credentials are referred to by name, never written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from cola.errors import SpecError
from cola.spec.locations import file_paths
from cola.study import StudySpec
from orchestration.recipes.node_groups import NodeGroup, own_labels

MOUNT = "/shared"  # where containers see the storage that all nodes share


def only_group(kind: str, groups: Sequence[NodeGroup]) -> NodeGroup:
    """The study's only group of nodes: a script or a list of machines starts equal ones.

    Raises:
        SpecError: the study's runs ask for several groups.
    """
    if len(groups) > 1:
        labels = "; ".join(str(group.labels or "none") for group in groups)
        raise SpecError(
            f"resources.larger: runs ask for nodes with different labels ({labels}), and a recipe "
            f"of --kind {kind} starts one kind of nodes; use --kind kuberay, or a study for each"
        )
    return groups[0]


def check_mounted(study: StudySpec) -> None:
    """Check that a study's paths are where containers see the shared storage.

    Raises:
        SpecError: one is not; the message names its key.
    """
    for key, value in file_paths(study).items():
        if not PurePosixPath(value).is_relative_to(MOUNT):
            raise SpecError(
                f"{key}={value}: containers see the shared storage at {MOUNT}, and lose what is "
                f"elsewhere; use a path below it (as --set output={MOUNT}/outputs)"
            )


def credentials(study: StudySpec) -> list[str]:
    """Names of the environment variables that hold credentials of the study's services."""
    names: list[str] = []
    uri, stores = study.tracking.uri, (study.checkpoint.storage, study.output_mirror)
    if uri is not None:
        names += ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"]
        if uri.startswith("env:"):
            names.append(uri.removeprefix("env:"))
    if any(store is not None and urlsplit(store).scheme == "s3" for store in stores):
        names += ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    if study.data.corpus.source == "huggingface":
        names.append("HF_TOKEN")
    return names


def start_options(group: NodeGroup) -> list[str]:
    """Arguments of `ray start` on a node of the group."""
    options = [f"--num-cpus={group.cpus}", f"--num-gpus={group.gpus}"]
    labels = ",".join(f"{key}={value}" for key, value in own_labels(group).items())
    return [*options, f"--labels={labels}"] if labels else options
