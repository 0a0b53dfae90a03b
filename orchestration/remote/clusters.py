"""Clusters by name: `clusters.yaml`, beside a study or in the user's configuration folder."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints, model_validator

from cola.errors import SpecError
from cola.spec import Spec, load_yaml
from orchestration.remote.packaging import STOP_SECONDS

FILE = "clusters.yaml"
ClusterKind = Literal["ray", "slurm", "kuberay"]
# What ends up in a directive of a script: no white space, no quotes, no comment.
Word = Annotated[str, StringConstraints(pattern=r"^[^\s#'\"`$\\]+$")]
# What ssh gets as its destination: never an option.
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@:/\[\]-]*$")]
Memory = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[KMGT]?$")]
# Keys that only one kind has.
KEYS: dict[ClusterKind, tuple[str, ...]] = {
    "ray": ("address", "token", "ca_file", "allow_http"),
    "slurm": (
        "shared", "partition", "account", "qos", "constraint", "time", "grace_seconds", "memory",
        "exclusive", "setup", "send_sources", "allocations", "by_rung", "ssh",
        "ssh_config",
    ),
    "kuberay": ("image",),
}  # fmt: skip
NEEDED: dict[ClusterKind, tuple[str, ...]] = {"ray": ("address",), "slurm": ("shared",)}


class ClusterSpec(Spec):
    """A cluster that studies and sweeps are submitted to."""

    kind: ClusterKind = Field(
        description="`ray`: a Ray cluster that runs, reached by its dashboard. `slurm`: a Slurm "
        "cluster, whose commands this machine (or `ssh`) has; every job brings a Ray of its own. "
        "`kuberay`: Kubernetes with KubeRay, for `cola recipe`."
    )
    nodes: PositiveInt | None = Field(
        default=None,
        description="Most nodes of a job. Null: what one run needs, times "
        "`resources.concurrent_runs`.",
    )
    gpus_per_node: NonNegativeInt = Field(default=8, description="GPUs of a node.")
    cpus_per_node: PositiveInt = Field(default=96, description="Cores of a node.")
    address: str | None = Field(
        default=None,
        description="Ray's dashboard, `http(s)://HOST:PORT`; of `kind: ray`, required.",
    )
    token: str | None = Field(
        default=None,
        pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$",
        description="Where the cluster's token is: `env:NAME` or `file:/path`. Null: as Ray finds "
        "it (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token).",
    )
    ca_file: str | None = Field(
        default=None, description="Certificates that an https address is trusted by."
    )
    allow_http: bool = Field(
        default=False, description="Send the token to another machine without TLS."
    )
    shared: str | None = Field(
        default=None,
        pattern=r"^/",
        description="A folder that this machine (or `ssh`) and every node see at the same path; "
        "scripts, logs and records of jobs lie in its `cola-jobs`; of `kind: slurm`, required.",
    )
    partition: Word | None = Field(default=None, description="Slurm's partition.")
    account: Word | None = Field(default=None, description="The account that pays.")
    qos: Word | None = Field(default=None, description="Slurm's quality of service.")
    constraint: Word | None = Field(default=None, description="Features that nodes must have.")
    time: Word | None = Field(
        default=None,
        description="Time limit of a job in Slurm's forms, as 2-00:00:00; a job that reaches it is "
        "queued again. Null: 1.5 times the plan's hours, between 1 and 48.",
    )
    grace_seconds: PositiveInt = Field(
        default=STOP_SECONDS,
        description="Seconds before the time limit that trainings have to save a checkpoint.",
    )
    memory: Memory | None = Field(
        default=None, description="Memory of each node, as 64G. Null: what the cluster gives."
    )
    exclusive: bool = Field(
        default=False, description="Take whole nodes, whatever the study needs of them."
    )
    setup: list[str] = Field(
        default=[],
        description="Lines of bash that make the environment in which `cola` is found, as "
        "`module load cuda` or `source /shared/venv/bin/activate`.",
    )
    send_sources: bool = Field(
        default=False,
        description="Jobs run this machine's sources of the product, which are sent to the folder "
        "`cola-sources` of `shared` unless the environment of `setup` has the same; its libraries "
        "stay as they are. With `ssh` corpus and tokenizer files of a study on this machine are "
        "sent too, to `cola-files`; those of a sweep are not, and must lie below `shared`. "
        "`--environment` comes before this key.",
    )
    allocations: PositiveInt = Field(
        default=1,
        description="Jobs of a study side by side; each trains runs that no other has. A sweep has "
        "one.",
    )
    by_rung: bool = Field(
        default=False,
        description="Jobs of a study have nodes and time by the rungs whose runs they take, so "
        "that small rungs start at once and large ones wait for their nodes; `nodes` and `time` "
        "are the most of any. Without `allocations` one job for each size.",
    )
    ssh: Host | None = Field(
        default=None,
        description="A login node with Slurm's commands, as the user's configuration of OpenSSH "
        "knows it (`HOST` or `USER@HOST`); it is reached without a question (key or agent), and "
        "`shared` is a folder there. Null: this machine has Slurm's commands.",
    )
    ssh_config: str | None = Field(
        default=None, description="A configuration of OpenSSH in place of the user's."
    )
    image: str | None = Field(default=None, description="Container image with the product in it.")

    @model_validator(mode="after")
    def _has_the_keys_of_its_kind(self) -> ClusterSpec:
        for kind, keys in KEYS.items():
            given = [key for key in keys if key in self.model_fields_set]
            if kind != self.kind and given:
                raise ValueError(f"{given[0]} is a key of kind: {kind}, and this is a {self.kind}")
        for key in NEEDED.get(self.kind, ()):
            if getattr(self, key) is None:
                raise ValueError(f"{key} is required for kind: {self.kind}")
        if self.ssh_config is not None and self.ssh is None:
            raise ValueError("ssh_config is of no use without ssh, the host to connect to")
        return self


class ClustersFile(Spec):
    """The clusters of a user or a project, by name."""

    clusters: dict[str, ClusterSpec] = Field(description="Each cluster by the name that it gets.")


def cluster_files(study: str | None = None) -> list[Path]:
    """Where clusters are described: beside a study's file first, then in the user's folder."""
    beside = Path(study).parent if study is not None and Path(study).is_file() else Path.cwd()
    return list(dict.fromkeys([(beside / FILE).absolute(), user_file()]))


def user_file() -> Path:
    """The user's own description of clusters.

    Raises:
        SpecError: there is no home folder, and XDG_CONFIG_HOME does not replace it.
    """
    configuration = os.environ.get("XDG_CONFIG_HOME")
    try:
        folder = Path(configuration) if configuration else Path.home() / ".config"
    except RuntimeError:
        raise SpecError(
            "HOME: is not set, and this user has no entry with a home folder, so that there is no "
            f"place for {FILE}; set HOME or XDG_CONFIG_HOME"
        ) from None
    return folder / "cola" / FILE


def known_clusters(study: str | None = None) -> dict[str, tuple[ClusterSpec, Path]]:
    """Each described cluster with its file; of one name the first file's counts.

    Raises:
        SpecError: a file is invalid.
    """
    known: dict[str, tuple[ClusterSpec, Path]] = {}
    for path in cluster_files(study):
        if path.is_file():
            found = ClustersFile.parse(load_yaml(path), origin=str(path)).clusters
            known = {**{name: (spec, path) for name, spec in found.items()}, **known}
    return known


def read_cluster(name: str, study: str | None = None) -> ClusterSpec:
    """The cluster of this name; a file beside the study comes before the user's.

    Raises:
        SpecError: no file describes it, or the description is invalid.
    """
    known, places = known_clusters(study), " or ".join(map(str, cluster_files(study)))
    if name in known:
        return known[name][0]
    if not known:
        raise SpecError(
            f"--cluster {name}: no cluster is described; write it into {places} "
            "(`cola schema clusters` has the keys)"
        )
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise SpecError(
        f"--cluster {name}: unknown; {hint}described in {places}: {', '.join(sorted(known))}"
    )


def only_cluster(study: str | None = None) -> tuple[str, Path] | None:
    """The one described cluster that takes jobs, and its file; None where there are none or more.

    Raises:
        SpecError: a file is invalid.
    """
    known = known_clusters(study)
    taking = [(name, path) for name, (spec, path) in known.items() if spec.kind != "kuberay"]
    return taking[0] if len(taking) == 1 else None
